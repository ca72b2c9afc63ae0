"""Runs that are killed and go on: what is there at the end is what an undisturbed run leaves.

python -m tests.kill --rounds 100 [--seed 0]

A round draws a job of the command line (a folder of photos with a video; JSON lines, CSV or Parquet; with drawn
copies or without; or `refnet blur` without results), ends it one to four times by SIGKILL, SIGTERM, Ctrl-C or
a full disk after a drawn number of photos, and then lets it finish.
"""
