"""The builder: Dockerfile → stages → images.  The parser (`dockerfile/`) and the graph of stages know of no engine."""
