"""`python -m xmodal` is the `xmodal` command."""

from xmodal.command import run

if __name__ == "__main__":
    run()
