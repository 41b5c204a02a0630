"""The Dockerfile language (Dockerfile reference): lines, words with variables, instructions, stages.  No I/O."""
