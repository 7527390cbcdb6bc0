"""Questions with their answers, by split and difficulty, and the check of an answer. Runs without torch."""
