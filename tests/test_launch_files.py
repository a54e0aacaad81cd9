"""The launch files that other programs read: a JobSet, a SkyPilot task, an image, a notebook."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from stand_ins import LAUNCH, ROOT, UV, Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# --- Kubernetes and SkyPilot

JOB_SET = {
    "NAME": "hpm-l",
    "IMAGE": "registry.example.com/hpm_jax:1",
    "HOSTS": "4",
    "CHIP": "google.com/tpu",
    "CHIPS": "8",
    "ARGUMENTS": """--config=a.py --config.data.path='/a b/it"s: # {here}'""",
}


def job_set(**values):
    """The JobSet as `envsubst` makes it, which puts nothing for what is not set."""
    text = (LAUNCH / "kubernetes.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{(\w+)\}", lambda name: values.get(name[1], ""), text))


def test_a_job_set():
    made = job_set(**JOB_SET)
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["name"] == "hpm-l" and made["spec"]["network"]["enableDNSHostnames"]
    (hosts,) = made["spec"]["replicatedJobs"]
    job = hosts["template"]["spec"]
    assert hosts["replicas"] == 1 and job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 4
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/hpm_jax:1"
    assert container["resources"]["limits"] == {"google.com/tpu": 8}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    environment = {entry["name"]: entry for entry in container["env"]}
    # the name of the first pod, as JobSet gives it: set, job, index of the job, of the pod; network
    address = f"hpm-l-{hosts['name']}-0-0.hpm-l:1234"
    assert environment["JAX_COORDINATOR_ADDRESS"]["value"] == address
    assert environment["JAX_NUM_PROCESSES"]["value"] == "4"
    index = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_what_a_job_set_does_with_failures():
    spec = job_set(**JOB_SET)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    # any lost pod ends the job, and the set starts all of them anew
    assert job["backoffLimit"] == 0 and job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
    codes, disruption = job["podFailurePolicy"]["rules"]
    assert codes["action"] == disruption["action"] == "FailJob"
    name = job["template"]["spec"]["containers"][0]["name"]
    assert codes["onExitCodes"] == {"containerName": name, "operator": "In", "values": [143]}
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == 3
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


def test_the_options_of_a_job_set():
    def pod(**values):
        return job_set(**JOB_SET, **values)["spec"]["replicatedJobs"][0]["template"]["spec"][
            "template"
        ]["spec"]

    plain = pod()
    assert plain["nodeSelector"] is None and plain["serviceAccountName"] is None
    chosen = pod(
        NODES='{cloud.google.com/gke-tpu-topology: 4x4, cloud.google.com/gke-spot: "true"}',
        DATA="persistentVolumeClaim: {claimName: imagenet}",
        ACCOUNT="trainer",
    )
    assert chosen["nodeSelector"] == {
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert chosen["volumes"][0]["persistentVolumeClaim"] == {"claimName": "imagenet"}
    assert chosen["serviceAccountName"] == "trainer"


def test_the_command_of_a_pod(machine):
    machine.stand_in("python")
    pod = job_set(**JOB_SET)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    subprocess.run(pod["containers"][0]["command"], env=machine.env, check=True)
    path = """--config.data.path=/a b/it"s: # {here}"""
    assert machine.calls() == [["python", "-m", "hpm_jax.main", "--config=a.py", path]]


def test_a_job_of_skypilot(machine):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    allowed = {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    assert set(task) <= allowed, "of the keys of a SkyPilot task, those that are used"
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [143]
    unset = {name for name, value in task["envs"].items() if value is None}
    assert unset == {"ARGUMENTS", "WORKDIR", "DATA"}, "sky asks for these"
    assert task["file_mounts"]["/data"]["source"] == "${DATA}"

    machine.stand_in(
        "uv",
        UV.format(
            python=f"""#!{sys.executable}
import json, os, sys
print(json.dumps([sys.argv[1:], {{k: v for k, v in os.environ.items() if k[:4] == "JAX_"}}]))
"""
        ),
    )
    machine.env |= {"JAX": "cuda13", "WORKDIR": "gs://bucket/x", "ARGUMENTS": "--a='b c' --d"}
    machine.env |= {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    for section in ("setup", "run"):
        (machine.here / section).write_text(task[section])
    machine.run(machine.here / "setup")
    assert "jax[cuda13]" in machine.calls("uv", "install")[0]
    arguments, environment = json.loads(machine.run(machine.here / "run", SKYPILOT_NODE_RANK="1"))
    assert arguments == ["-m", "hpm_jax.main", "--a=b c", "--d", "--workdir=gs://bucket/x"]
    assert environment == {
        "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
    }


def test_the_image_has_what_it_copies():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY ")]
    assert copied and all((ROOT / name).exists() for name in copied)
    assert 'ENTRYPOINT ["python", "-m", "hpm_jax.main"]' in lines
