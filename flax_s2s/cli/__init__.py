"""The command line: enter arguments; leaves an exit code. `options` says what each verb can be told, `verbs` hands it to a command."""
