"""Reading programs before they are compiled."""

import jax


def equations(jaxpr, loops=()):
    """Every equation of a program, with the loops it stands in; where the platform decides, of what is run on CPUs and TPUs."""
    for equation in jaxpr.eqns:
        yield equation, loops
        inside = (*loops, equation) if equation.primitive.name in ("scan", "while") else loops
        by_platform = equation.primitive.name == "cond" and equation.params["branches_platforms"]
        values = equation.params["branches"][-1:] if by_platform else equation.params
        for value in jax.tree.leaves(values, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, inside)


def carries(jaxpr):
    """What every loop of a program passes on."""
    loops = (e for e, _ in equations(jaxpr) if e.primitive.name == "scan")
    return [variable.aval for e in loops for variable in e.outvars[: e.params["num_carry"]]]
