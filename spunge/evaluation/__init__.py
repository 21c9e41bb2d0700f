"""What is measured of a candidate: scores per question or text, and the statistics over them.

A file with a `TABLE`, one of the data's, is an evaluation of the model by itself. It has a function `score(model,
tokenizer, table, **options)`, which takes the fields of its `Options` and returns a row for each question or text, with
`attribute` and `subject`. `METRICS` say how the rows become numbers, unless they are accuracies.
"""
