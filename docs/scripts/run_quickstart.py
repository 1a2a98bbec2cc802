"""python docs/scripts/run_quickstart.py

Run the bash blocks of docs/quickstart.md in a new folder, in order, and write what each prints to its standard output
into the text block below it. `hf-multimodal` must be on the path. It takes some minutes.
"""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

PAGE = Path(__file__).parents[1] / "quickstart.md"
BLOCK = re.compile(r"(```bash\n(.*?)```\n\n```text\n).*?(```\n)", re.DOTALL)


def main() -> None:
    """Run and write; a command that fails ends it and leaves the page as it was."""
    with TemporaryDirectory() as folder:

        def run(block: re.Match[str]) -> str:
            print(block[2], flush=True)
            command = ["bash", "-ec", block[2]]
            output = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
            lines = [line.rstrip() for line in output.splitlines()]
            return block[1] + "\n".join([*lines, ""]) + block[3]

        page = BLOCK.sub(run, PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
