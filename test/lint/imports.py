# test/lint/imports.py - of each Python file named: a syntax error, and the names that are imported and not used.
import ast
import sys

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        try:
            tree = ast.parse(file.read(), path)
        except SyntaxError as error:
            print(f"{path}:{error.lineno}: {error.msg}")
            continue
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = (alias.asname or alias.name).split(".")[0]
                if name not in used:
                    print(f"{path}:{node.lineno}: {name} is not used")
