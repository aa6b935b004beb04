"""Reading programs before they are compiled."""

import jax


def equations(jaxpr, loops=()):
    """Every equation of a program, with the loops it stands in."""
    for equation in jaxpr.eqns:
        yield equation, loops
        inside = (*loops, equation) if equation.primitive.name in ("scan", "while") else loops
        for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, inside)


def carries(jaxpr):
    """What every loop of a program passes on."""
    loops = (e for e, _ in equations(jaxpr) if e.primitive.name == "scan")
    return [variable.aval for e in loops for variable in e.outvars[: e.params["num_carry"]]]
