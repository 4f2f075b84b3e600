"""Assembles the Python package: the sources of this folder, the wire types, and one typed method for each operator.

    generate.py --schema schema.json --proto DIR --out DIR

`schema.json` is what the program attnd-schema writes: an attnd.v1.OperatorDescription for each operator. The result under --out is a complete package: `pip wheel` builds
it, and --out/src on PYTHONPATH runs it.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import keyword
import pathlib
import shutil
import sys
import textwrap
from typing import Any

HERE = pathlib.Path(__file__).parent
PROTOS = tuple(f"attnd/v1/{name}.proto" for name in ("tensor", "operators", "sessions", "models"))
WIDTH = 116

HEAD = '''"""Every operator of the catalogue as a typed method. Generated from the schemas by generate.py."""

from __future__ import annotations

from typing import Any, Literal

from attnd._calls import R
from attnd.results import Attribute, Result
from attnd.tensors import Array, ArrayLike
'''

RUN = '''
    {asynchronous}def _run(
        self,
        kind: type[R],
        op: str,
        inputs: dict[str, ArrayLike],
        attributes: dict[str, Attribute],
        kernel: str,
        timeout: float | None,
    ) -> R:
        """Evaluates; the client's part."""
        raise NotImplementedError
'''

GIVEN = '''

def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what the caller left out."""
    return {name: value for name, value in values.items() if value is not None}
'''

SCALARS = {"bool": "bool", "int": "int", "float": "float", "string": "str"}


def identifier(name: str) -> str:
    return name + "_" if keyword.iskeyword(name) or name in ("self", "kernel", "timeout") else name


def class_name(op: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in op.split("_")) + "Result"


def python_type(attribute: dict[str, Any]) -> str:
    if attribute["choices"]:
        return "Literal[" + ", ".join(json.dumps(choice) for choice in attribute["choices"]) + "]"
    kind = attribute["type"]
    if kind.endswith("[]"):
        scalar = SCALARS[kind[:-2]]
        return f"{scalar} | list[{scalar}]"
    return SCALARS[kind]


def shape(port: dict[str, Any]) -> str:
    return " or ".join("[" + ",".join(alternative["dims"]) + "]" for alternative in port["shapes"])


def entry(name: str, what: str, doc: str) -> str:
    """A paragraph of a docstring: a name, its type, and an indented explanation."""
    text = f"{name}: {what}" + (f". {doc[0].upper()}{doc[1:]}" if doc else "")
    return textwrap.fill(text, WIDTH - 12, subsequent_indent="    ")


def input_doc(port: dict[str, Any]) -> str:
    what = f"{port['type']} {shape(port)}"
    if port["optional"]:
        what += ", optional"
    if port["condition"]:
        what += f", {'only' if port['optional'] else 'needed'} if {port['condition']}"
    return entry(identifier(port["name"]), what, port["doc"])


def attribute_doc(attribute: dict[str, Any]) -> str:
    what = attribute["type"] if not attribute["choices"] else "one of " + ", ".join(attribute["choices"])
    if attribute["default_value"]:
        what += f", default {attribute['default_value']}"
    elif attribute["required"]:
        what += ", required"
    return entry(identifier(attribute["name"]), what, attribute["doc"])


def output_doc(port: dict[str, Any]) -> str:
    what = f"{port['type']} {shape(port)}" + (f", if {port['condition']}" if port["condition"] else "")
    return entry(port["name"], what, port["doc"])


def docstring(paragraphs: list[str], indent: str) -> str:
    body = "\n\n".join(paragraphs).replace("\\", "\\\\").replace('"""', "'''")
    if "\n" not in body:
        return f'{indent}"""{body}"""\n'
    return textwrap.indent(f'"""{body}\n"""\n', indent, lambda line: line.strip() != "")


def result_class(op: dict[str, Any]) -> str:
    text = f"\n\nclass {class_name(op['id'])}(Result):\n"
    text += docstring([f"Outputs of {op['id']}."], "    ")
    for port in op["outputs"]:
        conditional = bool(port["condition"])
        text += f"\n    @property\n    def {identifier(port['name'])}(self) -> Array{' | None' if conditional else ''}:\n"
        text += docstring([output_doc(port).split(": ", 1)[1]], "        ")
        text += f"        return self.get({port['name']!r})\n" if conditional else f"        return self[{port['name']!r}]\n"
    return text


def method(op: dict[str, Any], asynchronous: bool) -> str:
    required = [p for p in op["inputs"] if not p["optional"] and not p["condition"]]
    others = [p for p in op["inputs"] if p not in required]
    arguments = ["self"] + [f"{identifier(p['name'])}: ArrayLike" for p in required] + ["*"]
    arguments += [f"{identifier(p['name'])}: ArrayLike | None = None" for p in others]
    for attribute in sorted(op["attributes"], key=lambda a: not a["required"]):
        kind = python_type(attribute)
        arguments.append(
            f"{identifier(attribute['name'])}: {kind}" + ("" if attribute["required"] else " | None = None")
        )
    arguments += ['kernel: str = ""', "timeout: float | None = None"]
    result = class_name(op["id"])

    def table(entries: list[dict[str, Any]]) -> str:
        return "{" + ", ".join(f"{e['name']!r}: {identifier(e['name'])}" for e in entries) + "}"

    text = f"\n    {'async ' if asynchronous else ''}def {identifier(op['id'])}(\n"
    text += "".join(f"        {argument},\n" for argument in arguments)
    text += f"    ) -> {result}:\n"
    summary = op["summary"].rstrip(".") + "."
    paragraphs = [textwrap.fill(summary, WIDTH - 12), textwrap.fill(op["paper"].rstrip(".") + ".", WIDTH - 12)]
    lines = [input_doc(p) for p in required + others] + [attribute_doc(a) for a in op["attributes"]]
    if op["derived"]:
        lines.append("Sizes: " + "; ".join(op["derived"]))
    paragraphs.append("\n".join(lines))
    paragraphs.append("Gives\n" + "\n".join(output_doc(p) for p in op["outputs"]))
    text += docstring(paragraphs, "        ")
    text += f"        inputs = _given({table(op['inputs'])})\n"
    text += f"        attributes = _given({table(op['attributes'])})\n"
    text += f"        return {'await ' if asynchronous else ''}self._run("
    text += f"{result}, {op['id']!r}, inputs, attributes, kernel, timeout)\n"
    return text


def operators(schema: dict[str, Any]) -> str:
    """The module `attnd.operators`."""
    catalogue = schema["operators"]
    text = HEAD + GIVEN
    for op in catalogue:
        text += result_class(op)
    for name, asynchronous in (("Operators", False), ("AsyncOperators", True)):
        text += f"\n\nclass {name}:\n" + docstring(["Operators as methods; the base of a client."], "    ")
        text += RUN.format(asynchronous="async " if asynchronous else "")
        for op in catalogue:
            text += method(op, asynchronous)
    return text


def wire_types(proto: pathlib.Path, out: pathlib.Path) -> None:
    # Imported here so that a missing package is an error of this step.
    from grpc_tools import protoc

    include = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{include}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main([*arguments, *PROTOS]) != 0:
        sys.exit("generate.py: protoc failed")
    # A file without a service has an empty module for it.
    (out / "attnd/v1/tensor_pb2_grpc.py").unlink(missing_ok=True)
    (out / "attnd/v1/__init__.py").write_text('"""Wire types of attnd.v1, generated from proto/."""\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schema", type=pathlib.Path, required=True)
    parser.add_argument("--proto", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    source = arguments.out / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(HERE / "pyproject.toml", arguments.out)
    wire_types(arguments.proto.resolve(), source.resolve())
    schema = json.loads(arguments.schema.read_text())
    (source / "attnd/operators.py").write_text(operators(schema))


if __name__ == "__main__":
    main()
