"""Replacing layers inside any network, keeping modules that are used twice shared."""

from collections.abc import Callable

from torch import nn

Replacement = Callable[[str, nn.Module], nn.Module | None]


def replace_modules(root: nn.Module, replacement: Replacement) -> nn.Module:
    """Replaces, in place, every module for which `replacement(qualified_name, module)` is not None.

    A replaced module is not descended into. A module that stands at several places is asked for
    once, and its one replacement stands at all of them. Returns the new root, which is `root`
    itself unless the root was replaced.
    """
    seen: dict[nn.Module, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module in seen:
            return seen[module]
        new = replacement(name, module)
        seen[module] = module if new is None else new
        if new is None:
            # Not named_children(), which leaves out a module's second place under one parent.
            for child_name, child in list(module._modules.items()):
                if child is not None:
                    module._modules[child_name] = visit(f"{name}.{child_name}" if name else child_name, child)
        return seen[module]

    return visit("", root)
