"""Read by Python before a run starts, as `sitecustomize`: what is wrong with its machine."""

import os
import resource
import time

if size := os.environ.get("FAULT_FILE_SIZE"):  # writing fails beyond it, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if count := os.environ.get("FAULT_FILES"):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(count), int(count)))
if shift := os.environ.get("FAULT_CLOCK"):
    now, jump = time.time, float(shift)
    time.time = lambda: now() + jump
if seconds := os.environ.get("FAULT_SLOW"):
    sync, rename = os.fsync, os.replace

    def slow_sync(file):
        time.sleep(float(seconds))
        return sync(file)

    def slow_rename(*names, **options):
        time.sleep(float(seconds))
        return rename(*names, **options)

    os.fsync, os.replace = slow_sync, slow_rename
