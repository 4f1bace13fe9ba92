"""Change each decision in turn and see that a test fails: `python -m proofs.mutants [part of a module's path]`.

Ends with 1 where a change goes unnoticed and `explained.toml` gives no reason why nobody could notice it. Writes the
modules that it has tried into docs/evidence/mutants.md. mutmut 3 runs here too; it neither drops an operand nor deletes
a statement, leaves decorated functions and constants out, changes words, and knows no reasons.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from proofs.mutants.mutations import Mutant
from proofs.mutants.targets import TARGETS
from proofs.mutants.trial import Outcome, try_all

EXPLAINED = Path(__file__).with_name("explained.toml")
PAGE = Path("docs/evidence/mutants.md")
HEAD = """# Whether the tests notice a changed decision

Written by `make mutants`. Each module that decides is changed in one place at a time: a comparison or its bound, an
operand swapped or dropped, a branch forced, a constant, a result, a statement left out. A test has to fail, or
`proofs/mutants/explained.toml` has to say why nobody could notice the change.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("only", nargs="?", default="", help="a part of a module's path")
    parser.add_argument("--lines", default="", help="only the changes of these lines, FROM-TO; writes no page")
    options = parser.parse_args(arguments)
    files = [file for file in TARGETS if options.only in file]
    if not files:
        parser.error(f"no such module among {', '.join(TARGETS)}")
    first, _, last = options.lines.partition("-")
    lines = range(int(first), int(last or first) + 1) if first else range(1, sys.maxsize)
    unexplained = 0
    for file in files:
        begun = time.monotonic()
        outcomes = _tried(file, lines)
        reasons = _reasons(file)
        survivors = [outcome for outcome in outcomes if not outcome.killed]
        unknown = [outcome for outcome in survivors if _key(outcome.mutant) not in reasons]
        unexplained += len(unknown)
        said = (
            f"{len(outcomes)} mutants, {len(outcomes) - len(survivors)} killed, "
            f"{len(survivors) - len(unknown)} explained, {len(unknown)} not"
        )
        print(f"{file}: {said} ({time.monotonic() - begun:.0f} s)", flush=True)
        for outcome in unknown:
            print(f"  {_line(file, outcome)}", flush=True)
        if not options.lines:
            for key in sorted(reasons.keys() - {_key(outcome.mutant) for outcome in survivors}):
                print(f"  explained, but no survivor: {' | '.join(key)}", flush=True)
            _write(file, said, survivors, reasons)
    return 1 if unexplained else 0


def _tried(file: str, lines: range) -> list[Outcome]:
    target = TARGETS[file]
    outcomes: list[Outcome] = []

    def chosen(mutant: Mutant) -> bool:
        return mutant.line in lines and (not target.functions or mutant.function in target.functions)

    try_all(file, target.tests, chosen, outcomes.append)
    return outcomes


Key = tuple[str, str, str]


def _key(mutant: Mutant) -> Key:
    return mutant.function, " ".join(mutant.before.split()), " ".join(mutant.after.split())


def _reasons(file: str) -> dict[Key, str]:
    """Why a change can't be noticed; the same for all of the same words in one function."""
    entries = tomllib.loads(EXPLAINED.read_text())
    return {(entry["in"], entry["before"], entry["after"]): entry["why"] for entry in entries.get(file, ())}


def _line(file: str, outcome: Outcome) -> str:
    function, before, after = _key(outcome.mutant)
    where = f"{file}:{outcome.mutant.line} {function}"
    return f"{where}: {before} → {after}{'' if outcome.reached else ' (no test enters it)'}"


def _write(file: str, said: str, survivors: Sequence[Outcome], reasons: dict[Key, str]) -> None:
    """Writes the module's part of the page anew; the others stay."""
    parts = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
    sections = {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() for part in parts}
    rows = [f"- `` {_line(file, each)} ``: {reasons.get(_key(each.mutant), '**not explained**')}" for each in survivors]
    sections[file] = "\n".join([said + ".", *([""] if rows else []), *rows])
    listed = [f"\n## {name}\n\n{sections[name]}\n" for name in TARGETS if name in sections]
    missing = [f"`{name}`" for name in TARGETS if name not in sections]
    PAGE.write_text(HEAD + (f"\nNot tried yet: {', '.join(missing)}.\n" if missing else "") + "".join(listed))


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    status = main()
    sys.stdout.flush()
    os._exit(status)  # what tests have left in this process, such as threads, is nobody's concern
