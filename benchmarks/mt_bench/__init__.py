"""MT-bench: models answer questions of two turns, judges grade or compare the answers, and the results are shown.

Any OpenAI-compatible endpoint can answer and judge. Files have FastChat's shapes, so that its tools and ours read each
other's. `python -m benchmarks.mt_bench --help`; docs/mtbench.md tells all of it.
"""
