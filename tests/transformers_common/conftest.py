# Markers that transformers' own tests carry.
MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flaky",
    "generate",
    "torch_compile_test",
    "torch_export_test",
    "training_ci",
    "tensor_parallel_ci",
    "vllm_tests",
)


def pytest_configure(config):
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: of transformers' own tests")
