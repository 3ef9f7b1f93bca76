"""The metrics that every grid of deep networks measures.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025). θ is the released network, θ₀ the
undefended one, and H(θ) = F(θ)ᵀF(θ) the Hessian of a linear probe on the features F(θ) of a task.
"""
