"""Every small way in which a module could be wrong: its mutants, one change each.

The operators are those of openpilot's safety tests (comparison, boundary, boolean, arithmetic,
increment), and conditions forced, calls swapped, statements left out.
"""

import ast
import copy

COMPARE = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
}
SWAPPED = {"min": "max", "max": "min", "all": "any", "any": "all", "cos": "sin", "sin": "cos"}


def mutants(source):
    """`(line, what, source)` of each mutant; annotations and docstrings are left alone."""
    tree = ast.parse(source)
    places = [node for node in ast.walk(tree) if hasattr(node, "lineno")]
    skipped = set(map(id, unjudged(tree)))
    for index, node in enumerate(places):
        if id(node) in skipped:
            continue
        for what, change in changes(node):
            twin = ast.parse(source)
            target = [n for n in ast.walk(twin) if hasattr(n, "lineno")][index]
            change(target, twin)
            yield node.lineno, what, ast.unparse(ast.fix_missing_locations(twin))


def unjudged(tree):
    """Nodes whose change means nothing: annotations, docstrings, imports, `__future__` guards."""
    for node in ast.walk(tree):
        roots = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            roots.append(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            roots.append(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node)
        if isinstance(node, ast.ClassDef):
            roots.extend(keyword.value for keyword in node.keywords)
        for root in filter(None, roots):
            yield from ast.walk(root)


def changes(node):
    """`(what, change(node, tree))` for one node."""
    yield from operators(node)
    yield from values(node)
    yield from courses(node)


def operators(node):
    """Comparisons, arithmetic, boolean operators, signs."""
    match node:
        case ast.Compare():
            for position, op in enumerate(node.ops):
                for new in COMPARE.get(type(op), ()):
                    yield f"{type(op).__name__} -> {new.__name__}", setting("ops", new, position)
        case ast.BinOp():
            for new in ARITHMETIC.get(type(node.op), ()):
                yield f"{type(node.op).__name__} -> {new.__name__}", setting("op", new)
        case ast.BoolOp():
            new = ast.Or if isinstance(node.op, ast.And) else ast.And
            yield f"{type(node.op).__name__} -> {new.__name__}", setting("op", new)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"{type(node.op).__name__} dropped", becoming(node.operand)


def values(node):
    """Constants."""
    match node:
        case ast.Constant(value=bool()):
            yield f"{node.value} -> {not node.value}", becoming(ast.Constant(not node.value))
        case ast.Constant(value=int() | float()):
            yield f"{node.value} + 1", becoming(ast.Constant(node.value + 1))
        case ast.Constant(value=str()):
            yield f"{node.value!r} changed", becoming(ast.Constant(node.value + "!"))


def courses(node):
    """What is done: branches forced, functions swapped, statements left out."""
    match node:
        case ast.If() | ast.IfExp():
            yield "if -> True", setting_test(True)
            yield "if -> False", setting_test(False)
        case ast.Name() if node.id in SWAPPED:
            yield f"{node.id} -> {SWAPPED[node.id]}", setting_name("id", SWAPPED[node.id])
        case ast.Attribute() if node.attr in SWAPPED:
            yield f"{node.attr} -> {SWAPPED[node.attr]}", setting_name("attr", SWAPPED[node.attr])
        case ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Expr():
            yield "left out", becoming(ast.Pass())


def setting(field, new, position=None):
    def change(node, tree):
        if position is None:
            setattr(node, field, new())
        else:
            getattr(node, field)[position] = new()

    return change


def setting_test(value):
    def change(node, tree):
        node.test = ast.Constant(value)

    return change


def setting_name(field, name):
    def change(node, tree):
        setattr(node, field, name)

    return change


def becoming(new):
    """Puts `new` where the node is."""

    def change(node, tree):
        for parent in ast.walk(tree):
            for field, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, field, copy.deepcopy(new))
                elif isinstance(value, list) and any(item is node for item in value):
                    setattr(
                        parent,
                        field,
                        [copy.deepcopy(new) if item is node else item for item in value],
                    )

    return change
