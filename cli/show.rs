//! The verbs that tell of contexts: state, list, ps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use vctx_context::brief;
use vctx_runtime::events;
use vctx_runtime::state::{Context, Status};

use crate::args::{Format, Global, ListArgs, PsArgs, StateArgs};
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::output;

/// A context as runc prints it: the state of the specification, and what its callers have come to expect beside.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl Entry {
    fn of(context: &Context, users: &Users) -> Result<Entry, Error> {
        let status = context.status()?;
        let state = &context.state;
        let created = UNIX_EPOCH + Duration::new(state.created, state.created_nanos);
        Ok(Entry {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            pid: state.process.filter(|_| status != Status::Stopped).map_or(0, |(pid, _)| pid),
            status,
            bundle: state.bundle.clone(),
            rootfs: state.rootfs.clone(),
            created: output::rfc3339(created),
            annotations: state.annotations.clone(),
            owner: users.name(state.owner),
        })
    }
}

/// The host's passwd file.
struct Users(String);

impl Users {
    fn read() -> Users {
        let bytes = brief::read(c"/etc/passwd").unwrap_or_default();
        Users(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A user's name; the number when there is none.
    fn name(&self, uid: u32) -> String {
        let entry = self.0.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        entry.unwrap_or_else(|| uid.to_string())
    }
}

/// `vctx state`.
pub(crate) fn state(global: &Global, args: StateArgs) -> Result<ExitCode, Error> {
    output::json(&Entry::of(&store(global).open(&args.id)?, &Users::read())?)?;
    Ok(ExitCode::SUCCESS)
}

/// `vctx list`.
pub(crate) fn list(global: &Global, args: ListArgs) -> Result<ExitCode, Error> {
    let contexts = store(global).list()?;
    if args.quiet {
        let ids: String = contexts.iter().map(|context| format!("{}\n", context.state.id)).collect();
        output::text(&ids)?;
        return Ok(ExitCode::SUCCESS);
    }
    let users = Users::read();
    let entry = |context: &Context| Entry::of(context, &users).ok();
    let entries: Vec<Entry> = contexts.iter().filter_map(entry).collect();
    match args.format {
        Format::Json => output::json(&entries)?,
        Format::Table => {
            let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned).to_vec();
            let row = |entry: Entry| {
                let bundle = entry.bundle.display().to_string();
                vec![
                    entry.id,
                    entry.pid.to_string(),
                    entry.status.to_string(),
                    bundle,
                    entry.created,
                    entry.owner,
                ]
            };
            let rows: Vec<_> = [heading].into_iter().chain(entries.into_iter().map(row)).collect();
            output::table(&rows)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `vctx ps`.
pub(crate) fn ps(global: &Global, args: PsArgs) -> Result<ExitCode, Error> {
    let context = store(global).open(&args.id)?;
    let pids = events::processes(&context)?;
    if args.format == Format::Json {
        output::json(&pids)?;
        return Ok(ExitCode::SUCCESS);
    }
    // The table is that of ps(1), of which the lines of other processes are left out.
    let options = if args.ps_options.is_empty() { vec!["-ef".to_owned()] } else { args.ps_options };
    let listing = Command::new("ps").args(&options).output().map_err(Error::Ps)?;
    if !listing.status.success() {
        return Err(Error::PsFailed(String::from_utf8_lossy(&listing.stderr).trim().to_owned()));
    }
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let mut lines = listing.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID").ok_or(Error::PsColumn)?;
    let ours = lines.filter(|line| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid: i32| pids.contains(&pid))
    });
    let text: String = [heading].into_iter().chain(ours).map(|line| format!("{line}\n")).collect();
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}
