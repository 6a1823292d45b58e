"""The transport as its users meet it: transmissions over the emulated link, in virtual time.

```
Course ── what the link is like, when it begins, how long planning takes
   │
simulate ── sender ──► Link ──► receiver ──► Link ──► sender        simulation.py
   │           ▲ revisions, replan_s after they were wanted
Outcome ── what arrived by the deadline and in the end, when and of how many bytes
   │
scenarios.py  which links   ·   photos.py  plans, pictures, oracle   ·   trials.py  one transmission, measured
```
"""
