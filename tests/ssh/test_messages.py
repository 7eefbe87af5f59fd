"""Every sentence that an administrator can meet is explained, and none that there is not."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pkengine.ssh
from pkengine import errors
from pkengine.ssh.sudo import _MEANINGS

DOCUMENT = Path(__file__).parents[2] / "docs/ssh-messages.md"

#: What a call of one of these is given, is a sentence or the reason within one.
CLASSES = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SshError | errors.KeyFileError)
} | {"CertificateRefused", "_ClosedHere"}
REASONS = {"_error", "_fail", "_refused", "error", "kind"}


def template(node: ast.expr) -> str | None:
    """Give a text with "…" for what differs; None where the text comes from elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left)
    return None


def first_sentence(text: str) -> str:
    """Cut off what to do, which differs from the rest by following a full stop."""
    head, stop, _ = text.replace("….…", "….").partition(". ")
    return " ".join((head + stop.strip()).split())


def calls():
    for path in Path(pkengine.ssh.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in CLASSES | REASONS:
                    yield path.name, template(node.args[0])
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
                "what",
                "cut_off",
            ):
                yield path.name, template(node.value)


def spoken() -> set[str]:
    sentences = {first_sentence(text) for _, text in calls() if text is not None}
    sentences |= {meaning.format(user="…") for _, _, meaning in _MEANINGS}
    return {sentence for sentence in sentences if sentence.strip("… ")}


def explained() -> set[str]:
    lines = DOCUMENT.read_text().splitlines()
    return {line.removeprefix("> ") for line in lines if line.startswith("> ")}


class MessageTests(SynchronousTestCase):
    if not DOCUMENT.exists():
        skip = "the documentation is not part of this installation"

    def test_every_sentence_is_explained(self):
        self.assertEqual(sorted(spoken() - explained()), [])

    def test_no_sentence_is_explained_that_nobody_says(self):
        self.assertEqual(sorted(explained() - spoken()), [])
