"""The command line.

commands/ holds one verb a file, named as it is typed, or a noun with all its verbs. A command
reads what it is asked, checks, and acts; a page or a table that several commands print, or that is
longer than the command, is drawn in show/. cluster.py and images.py say what options that several
commands have mean, help.py how `--help` reads.
"""
