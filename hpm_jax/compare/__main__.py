"""The command: `python -m hpm_jax.compare --config configs/compare_cifar10.py --workdir runs/x`.

It is `hpm_jax.main`, whose config says what the run does.
"""

from hpm_jax.run.allocator import choose_allocator

if __name__ == "__main__":
    choose_allocator(first_run=True)  # each cell compiles its programs

from hpm_jax.main import start

if __name__ == "__main__":
    start()
