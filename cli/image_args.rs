//! The options of `vctx image`; part of `args.rs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vctx_storage::image::Reference;
use vctx_storage::image::spec::Platform;

use crate::values::Size;

/// `vctx image` and its own verb.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) verb: ImageVerb,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Fetch an image from a registry.
    Pull(PullArgs),
    /// Send an image to a registry.
    Push(PushArgs),
    /// Look whether an image in a registry is signed as --key or the policy asks, and print its digest.
    Verify(WantedArgs),
    /// Take in an OCI layout, an archive of `docker save`, a root file system, or a suite of Debian.
    Import(ImportArgs),
    /// Write an image to a file or folder.
    Export(ExportArgs),
    /// List the images.
    Ls(ListImagesArgs),
    /// Remove images, and what nothing else needs of them.
    Rm(RemoveImagesArgs),
    /// Print what an image says of itself as JSON.
    Inspect(InspectArgs),
    /// Read every blob of every image, and tell what is missing or damaged.
    Fsck(FsckArgs),
    /// Remove what no image and no context needs.
    Gc(GcArgs),
}

/// How a registry is talked to.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArgs {
    /// File with credentials [default: those of podman and docker].
    #[arg(long, value_name = "FILE")]
    pub(crate) authfile: Option<PathBuf>,
    /// Folder with certificates of authorities (*.crt), beside those of the machine.
    #[arg(long, value_name = "DIR")]
    pub(crate) cert_dir: Option<PathBuf>,
    /// Insist on TLS and on a certificate that is valid, but for plain HTTP on this machine's own loopback.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) tls_verify: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Which images are let in.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrustArgs {
    /// Signature policy [default: ~/.config/containers/policy.json or /etc/containers/policy.json, if there is one].
    #[arg(long, value_name = "FILE")]
    pub(crate) signature_policy: Option<PathBuf>,
    /// Public key of `cosign generate-key-pair` by which the image must be signed, beside what the policy asks.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
}

/// An image in a registry. It is what `vctx image verify` takes.
#[derive(Debug, Args)]
pub(crate) struct WantedArgs {
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// Which of several platforms [default: this machine's].
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub(crate) platform: Option<Platform>,
    /// Name of the image, such as debian:13 or registry.example.org/team/app.
    #[arg(value_name = "NAME")]
    pub(crate) name: Reference,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) wanted: WantedArgs,
    /// How much a layer may unpack to, in bytes [default: 128g, and nine tenths of the free disk].
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit: Option<Size>,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Name in the registry [default: that of the image].
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<Reference>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Which of several platforms [default: this machine's].
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub(crate) platform: Option<Platform>,
    /// How much a layer may unpack to, in bytes [default: 128g, and nine tenths of the free disk].
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit: Option<Size>,
    /// Of a suite: packages beside those that every machine has.
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    pub(crate) include: Vec<String>,
    /// Of a suite: where its packages are fetched from [default: mmdebstrap's choice].
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Folder of an OCI layout or with a root file system; an archive of one, also compressed with gzip or zstd, or `-` for
    /// standard input; or debootstrap:SUITE, such as debootstrap:trixie.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// Name of the image [default: what the archive says, or debootstrap:SUITE].
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<Reference>,
}

impl ImportArgs {
    /// Of a source alone.
    pub(crate) fn of(source: &str) -> ImportArgs {
        ImportArgs {
            platform: None,
            limit: None,
            include: Vec::new(),
            mirror: None,
            source: source.into(),
            name: None,
        }
    }
}

/// The form of an exported image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportForm {
    /// The layout of the image specification; a folder, or where TARGET ends in `.tar` or is `-`, an archive.
    Oci,
    /// What `docker load` reads, also of older releases.
    Docker,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Form of the image.
    #[arg(short, long, value_enum, value_name = "FORM", default_value_t = ExportForm::Oci)]
    pub(crate) format: ExportForm,
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// New file or folder; `-` for standard output.
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ListImagesArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveImagesArgs {
    /// Names or ids of images; an id takes all its names.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Remove nothing, only say what would go.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
