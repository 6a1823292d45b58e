"""Do the three services survive the real world: killed, stalled, cut off, crowded, and left alone for a long time.

```
faults   a thousand seeded faults, and after each all that is promised      make faults, tests/test_faults.py
soak     half an hour of everything, while memory is looked at              make soak
```
(`evaluation.bench.crowd` is the third: 64 and 200 clients at once, and a receiver that stands still.)

The services run as users run them, on loopback; nothing in them knows of this package. What the faults are made of:

- killed: SIGKILL; the service is started again on its port, up to a second later. The loss of power is not emulated:
  what a process has handed to the system stays.
- stalled: SIGSTOP and SIGCONT, now and then for longer than the transmitter's patience.
- link cut, losses, damaged bits: the emulator's own impairments, on both directions.
- disk full: a tmpfs of the run's own in a mount namespace, filled to the last block (ENOSPC); where the system allows
  none, a limit on the size of files (EFBIG).
- clock jumps: the C library's wall clock is off by what a file says (`clock_jump.c`), in all three services, in the
  midst of what they do; the times of files stay true. The monotonic clock cannot jump.

What the receiver had handed to no disk yet when it was killed may be gone (`docs/receiver_store.md`, "When the machine
stops"): what ended within 0.3 s before the kill, or while the disk was full, is told apart and only has to be no
garbage. Everything else must be there, bit for bit, until the end of the run.
"""
