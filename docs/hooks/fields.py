"""The fields of classes in the reference: their comments and help texts become "Attributes:".

An extension of griffe, which reads the package for mkdocstrings without importing it. A field of a
NamedTuple or dataclass is explained by the comment behind it, an option by its help text.
"""

import ast
import io
import tokenize
from typing import Any

import griffe

OPTIONS = ("option", "share", "positive")  # hpm_jax.fields: (default, help, ...)


class Fields(griffe.Extension):
    """Adds a section "Attributes:" to the docstring of every class with explained fields."""

    def on_class_members(self, *, node: Any, cls: griffe.Class, **_: Any) -> None:
        """Called when all members of a class are known."""
        if not isinstance(node, ast.ClassDef) or cls.docstring is None:
            return
        lines = []
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            name = field.target.id
            text = help_text(field.value) or comment(cls.members[name])
            if is_option(field.value):  # the signature then shows the default alone
                cls.members[name].value = cls.members[name].value.arguments[0]
            if text and not name.startswith("_"):
                lines.append(f"    {name}: {text}")
        if lines and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(lines)


def is_option(value: ast.expr | None) -> bool:
    """Whether a field is declared by one of the functions of hpm_jax.fields."""
    return isinstance(value, ast.Call) and getattr(value.func, "id", "") in OPTIONS and value.args


def help_text(value: ast.expr | None) -> str:
    """The help of an option, or ""."""
    if is_option(value) and len(value.args) > 1 and isinstance(value.args[1], ast.Constant):
        return str(value.args[1].value)
    return ""


def comment(field: griffe.Object) -> str:
    """The comment behind a field, or ""."""
    text = "\n".join(line.strip() for line in field.lines) + "\n"
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except tokenize.TokenError:
        return ""
    found = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return found[-1].lstrip("# ") if found else ""
