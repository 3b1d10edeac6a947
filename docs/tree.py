"""Print every module with the first line of its docstring: `make tree`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    for folder in ("pllava", "flows"):
        for file in sorted((ROOT / folder).rglob("*.py"), key=lambda file: (file.parent.parts, file.name != "__init__.py", file.name)):
            depth = len(file.relative_to(ROOT).parts) - 1
            name = f"{'  ' * (depth - 1)}{file.parent.name}/" if file.name == "__init__.py" else f"{'  ' * depth}{file.name}"
            line = (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]
            print(f"{name:<32}{line}")


if __name__ == "__main__":
    main()
