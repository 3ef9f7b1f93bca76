"""The metrics that every probe grid measures.

Source: "Model Immunization from a Condition Number Perspective" (ICML 2025). H(θ) = θᵀXᵀXθ is the Hessian of a linear
probe on the features Xθ: H_H for the harmful task, H_P for the benign task. θ is the released extractor, I the
undefended one.
"""
