//! What programs rely on: the JSON of every command holds exactly what docs/cli.md says, help names examples, completions
//! and manual pages come out, and two backups at once are two points.
