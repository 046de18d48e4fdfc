"""The operator's command line, `relight`: one file per verb.

Every verb that changes something goes plan, show, confirm, execute. Data goes to stdout, talk to stderr. Exit codes:
0 done, 1 failed, 2 usage, 3 an objective was missed.
"""
