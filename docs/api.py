"""docs/api.md from the docstrings of what `import arena` offers.

    python -m docs.api

The names are those of `arena.__all__`, in its order. Signatures are printed as they are written.
"""

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).with_name("api.md")
HEAD = """# The library: `import arena`

Written from the docstrings by `python -m docs.api`; change them there.
"""


def page(module: ModuleType) -> str:
    """Return the page of a module's public names as markdown."""
    names = list(getattr(module, "__all__", ()))
    links = [f"- [`{name}`](#{name.lower()})" for name in names]
    parts = [HEAD, *(["\n".join(links)] if links else [])]
    for name in names:
        parts += [f"## {name}", *entry(name, getattr(module, name))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def entry(name: str, value: Any) -> list[str]:
    """Return one name's signature, docstring and, of a class, its public methods."""
    if inspect.ismodule(value):
        return [_prose(value)]
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return [f"```python\n{name} = {value!r}\n```"]
    node = _node(value)
    if not isinstance(node, ast.ClassDef):
        return [_code(f"{name}{_arguments(node)}"), _prose(value)]
    found = [_code(f"{name}({', '.join(_fields(node))})"), _prose(value)]
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            bound = inspect.getattr_static(value, method.name)
            shown = method.name + ("" if isinstance(bound, property) else _arguments(method))
            said = _prose(getattr(value, method.name))
            found += [f"### {name}.{method.name}", _code(shown), said]
    return found


def _node(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _arguments(node: ast.FunctionDef) -> str:
    """Return a function's arguments and what it returns, without self."""
    kept = ast.arguments(**{name: getattr(node.args, name) for name in node.args._fields})
    if kept.args and kept.args[0].arg == "self":
        kept.args = kept.args[1:]
    for each in (*kept.posonlyargs, *kept.args, *kept.kwonlyargs):
        each.annotation = _unquoted(each.annotation)
    returns = f" -> {ast.unparse(_unquoted(node.returns))}" if node.returns else ""
    return f"({ast.unparse(kept)}){returns}"


def _unquoted(annotation: Any) -> Any:
    """Return an annotation that is written as a string without its quotes."""
    quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return ast.parse(annotation.value, mode="eval").body if quoted else annotation


def _fields(node: ast.ClassDef) -> list[str]:
    """Return what a class is made with: the arguments of its __init__, else its fields."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return [_arguments(each)[1:].rpartition(")")[0]]
    return [
        ast.unparse(each)
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith("_")
    ]


def _code(signature: str) -> str:
    """Return a signature as a code block, one argument a line where it is long."""
    if len(signature) > 96:
        tree = re.match(r"([\w.]+)\((.*)\)(.*)$", signature, re.DOTALL)
        if tree:
            name, inside, after = tree.groups()
            signature = f"{name}(\n    {_split(inside)},\n){after}"
    return f"```python\n{signature}\n```"


def _split(arguments: str) -> str:
    """Break arguments at the commas that stand in no bracket."""
    depth, lines = 0, [""]
    for letter in arguments:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            lines.append("")
        else:
            lines[-1] += letter
    return ",\n    ".join(line.strip() for line in lines)


def _prose(value: Any) -> str:
    """Return a docstring; outside of its examples no angle bracket opens a tag."""
    lines = (inspect.getdoc(value) or "").splitlines()
    return "\n".join(
        line if line.startswith("    ") else re.sub(r"<(?=[A-Za-z/!])", r"\\<", line)
        for line in lines
    )


def main() -> int:
    """Write the page."""
    import arena

    PAGE.write_text(page(arena), encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
