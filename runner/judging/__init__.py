"""The judgement: observations against expectations, known deviations, and the verdict on a case."""
