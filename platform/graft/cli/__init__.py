"""The command line.

commands/ holds one verb a file, named as it is typed, or a noun with all its verbs. A command
reads what it is asked, checks, and acts; a page or a table that several commands print, or that is
longer than the command, is drawn in show/. options.py has the options that several commands share;
cluster_options.py, dataset_refs.py and mover.py say what these mean; help.py how `--help` reads.
"""
