//! The options of the verbs about files and disk: `cp`, `volume`, `snapshot`, `copy`, `df`, `dedup`; part of `args.rs`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use crate::values::KeyValue;

/// One end of a copy, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// `CONTEXT:PATH`
    Context(String, PathBuf),
    /// `PATH`
    Host(PathBuf),
    /// `-`
    Archive,
}

impl FromStr for End {
    type Err = std::convert::Infallible;

    /// A path with a colon is written as `./a:b`, as with docker.
    fn from_str(text: &str) -> Result<End, Self::Err> {
        Ok(match text.split_once(':') {
            _ if text == "-" => End::Archive,
            Some((id, path)) if vctx_runtime::state::check_id(id).is_ok() && !id.starts_with('.') => {
                End::Context(id.into(), Path::new("/").join(path))
            }
            _ => End::Host(text.into()),
        })
    }
}

/// What becomes of devices, pipes and sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Special {
    /// Copy nothing when there is one.
    Refuse,
    /// Leave them out.
    Skip,
    /// Make devices and pipes, and leave sockets out.
    Make,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Keep owners, set-id bits and all attributes; else the files become root's in a context and the caller's outside.
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what a link leads to, where SOURCE is one; it leads nowhere but in its context.
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Devices, pipes and sockets.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Special::Refuse)]
    pub(crate) special: Special,
    /// File or folder to copy, or `-` for a tar archive from standard input; FOLDER/. means what lies in it.
    #[arg(value_name = "[CONTEXT:]SOURCE")]
    pub(crate) source: End,
    /// Where to: an existing folder takes the copy in, another path becomes it; `-` writes a tar archive.
    #[arg(value_name = "[CONTEXT:]TARGET")]
    pub(crate) target: End,
}

/// `vctx volume` and its own verb.
#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    pub(crate) verb: VolumeVerb,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume; `run -v NAME:PATH` makes it too.
    Create(CreateVolumeArgs),
    /// List the volumes.
    #[command(visible_alias = "list")]
    Ls(ListVolumesArgs),
    /// Remove volumes that no context uses, with all they hold.
    #[command(visible_alias = "remove")]
    Rm(VolumeNames),
    /// Print volumes and who uses them as JSON.
    Inspect(VolumeNames),
    /// Remove what killed commands have left, and with --all the volumes that no context uses.
    Prune(PruneVolumesArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateVolumeArgs {
    /// A note; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<KeyValue>,
    /// Name of the volume.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListVolumesArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the names only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeNames {
    /// Names of volumes.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneVolumesArgs {
    /// All volumes that no context uses.
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// `vctx snapshot` and its own verb.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) verb: SnapshotVerb,
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Keep what a context has changed; one that runs is frozen meanwhile.
    Create(SnapshotName),
    /// List the snapshots of a context.
    #[command(visible_alias = "list")]
    Ls(ListSnapshotsArgs),
    /// Remove snapshots.
    #[command(visible_alias = "remove")]
    Rm(SnapshotNames),
    /// Put a snapshot in the place of what a stopped context has changed since.
    Restore(SnapshotName),
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotName {
    /// Name of the context.
    #[arg(value_name = "CONTEXT")]
    pub(crate) id: String,
    /// Name of the snapshot.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListSnapshotsArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Name of the context.
    #[arg(value_name = "CONTEXT")]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotNames {
    /// Name of the context.
    #[arg(value_name = "CONTEXT")]
    pub(crate) id: String,
    /// Names of snapshots.
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Name of the context to copy; one that runs is frozen meanwhile.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Name of the new context.
    #[arg(value_name = "NEW")]
    pub(crate) new: String,
}

#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// Print JSON, with each image, context, snapshot and volume.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CollectArgs {
    /// Volumes that no context uses go as well, with all they hold.
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Remove nothing, only say what would go.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DedupArgs {
    /// Change nothing, only say what would be saved.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_context_a_path_or_an_archive() {
        let parse = |text: &str| text.parse::<End>().unwrap();
        assert_eq!(parse("box:/etc/passwd"), End::Context("box".into(), "/etc/passwd".into()));
        assert_eq!(parse("box:etc/."), End::Context("box".into(), "/etc/.".into()));
        assert_eq!(parse("-"), End::Archive);
        for text in ["./a:b", "/a:b", "a/b:c", "a", ""] {
            assert_eq!(parse(text), End::Host(text.into()));
        }
    }
}
