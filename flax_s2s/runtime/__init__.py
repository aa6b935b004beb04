"""Where it runs: enter devices, processors and the place's environment; leave a mesh, compiled programs, the processes of a job, its log."""
