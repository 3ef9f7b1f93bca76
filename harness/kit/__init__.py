"""The conformance kit: what `immunebench check` runs on a plugin, for authors' own tests too:

from harness.kit import checks

@pytest.mark.parametrize("check", checks(MyAttack), ids=str)
def test_conforms(check):
    check()
"""

from harness.kit.checks import Check, Fault, checks

__all__ = ["Check", "Fault", "checks"]
