"""The metrics that every probe grid measures.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025). H(θ) = θᵀXᵀXθ is the Hessian of a linear
probe on the features Xθ, θ the released extractor, I the undefended one, H_H of the harmful task, H_P of the benign
one.
"""
