"""The kill sweep: a worker is killed before, after and during every statement that it sends, and what is left judged.

`wire` counts the statements and springs the trap, `life` is the process that is killed, `shapes` are the tasks that it
works on, `tools` is the outside world that keeps count, `runs` kills, recovers and judges.
"""
