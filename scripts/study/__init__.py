"""Studies with people, as in sections 5.1 and 5.2 of the paper: built, served and analysed by `saywhy study`.

plan.py (a study's folder), material.py (what is shown), kinds/ (the three studies), build.py and pages.py (the
folder and its pages), serve.py and receiver.py (a small server), answers.py (what people answered),
estimates.py and mixed.py (statistics), analyse.py and report.py (the report), simulate.py (power, rehearsals).
"""
