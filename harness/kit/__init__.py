"""The conformance kit: what `immunebench check` tries on a plugin, and authors in their own tests:

from harness.kit import checks

@pytest.mark.parametrize("check", checks(MyAttack), ids=str)
def test_conforms(check):
    check()
"""

from harness.kit.checks import Check, Fault, checks

__all__ = ["Check", "Fault", "checks"]
