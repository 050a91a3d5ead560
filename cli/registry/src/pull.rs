//! A pull: the manifest by its name, and the blobs by their digests, several at a time.

use std::io::{self, Read};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use vctx_storage::image::acquire::{Event, Origin, resolve, take_in};
use vctx_storage::image::remote::{Download, Job};
use vctx_storage::image::spec::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, INDEX, LARGEST, MANIFEST};
use vctx_storage::image::{self, Digest, Store};

use crate::client::{ATTEMPTS, Client, SILENCE, backoff};
use crate::error::Error;
use crate::policy::{Demand, Policy};
use crate::progress::Progress;
use crate::signature::{self, Signed};

/// A connection that has brought so many bytes was worth it.
const ENOUGH: u64 = 64 << 10;
/// So many bytes come at least in a time of [`SILENCE`].
const SLOWEST: u64 = 30 << 10;

/// Pulls, and gives the image's name.
pub(crate) fn run(job: &Job) -> Result<String, Error> {
    // Before anything is asked: a policy that cannot be read lets nothing in.
    let policy = Policy::of(job, &job.reference()?)?;
    let client = Client::new(job, "pull")?;
    let store = Store::new(&job.store);
    let remote = Remote { progress: Progress::new(job.quiet), first: Mutex::new(None), client };
    let descriptor = remote.named()?;
    let pin = store.pin()?;
    let found = resolve(&remote, &descriptor, &job.platform)?;
    remote.check(&policy, &[&found.digest, &descriptor.digest])?;
    let reference = &remote.client.reference;
    let image = take_in(&store, pin, &remote, &found, &reference.to_string(), &job.unpack());
    remote.progress.end();
    image?;
    Ok(reference.familiar())
}

/// Looks whether the image would be let in, and gives its name with the digest that is signed or lets it in.
pub(crate) fn verify(job: &Job) -> Result<String, Error> {
    let policy = Policy::of(job, &job.reference()?)?;
    if policy.demands.is_empty() {
        return Err(Error::NothingAsked);
    }
    let client = Client::new(job, "pull")?;
    let remote = Remote { progress: Progress::new(true), first: Mutex::new(None), client };
    let descriptor = remote.named()?;
    let found = resolve(&remote, &descriptor, &job.platform)?;
    remote.check(&policy, &[&found.digest, &descriptor.digest])?;
    Ok(format!("{}@{}", remote.client.reference.familiar(), descriptor.digest))
}

/// An image in a registry.
struct Remote {
    client: Client,
    progress: Progress,
    /// What the name stands for, which has been read already.
    first: Mutex<Option<(Digest, Vec<u8>)>>,
}

impl Remote {
    /// What the name stands for.
    fn named(&self) -> Result<Descriptor, Error> {
        let version = self.client.reference.version();
        let (kind, bytes) = self.read(&version)?;
        let digest = Digest::of(&bytes);
        if let Some(wanted) = self.client.reference.digest.clone().filter(|wanted| *wanted != digest) {
            return Err(image::Error::Digest { expected: wanted, found: digest }.into());
        }
        let descriptor = Descriptor::new(&kind, digest.clone(), bytes.len() as u64);
        *self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((digest, bytes));
        Ok(descriptor)
    }

    /// Refuses an image that the policy does not let in.
    fn check(&self, policy: &Policy, digests: &[&Digest]) -> Result<(), Error> {
        let mut all: Vec<Digest> = digests.iter().map(|&digest| digest.clone()).collect();
        all.dedup();
        let mut signed = Vec::new();
        if policy.demands.iter().any(|demand| matches!(demand, Demand::Signed { .. })) {
            for digest in &all {
                signed.extend(self.signatures(digest)?);
            }
        }
        signature::check(policy, &self.client.reference, &all, &signed)
    }

    /// What is signed of an image; nothing where it is not.
    fn signatures(&self, digest: &Digest) -> Result<Vec<Signed>, Error> {
        let bytes = match self.read(&signature::tag(digest)) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            result => result?.1,
        };
        let manifest = image::index::parse_manifest(&Digest::of(&bytes), &bytes)?;
        let mut signed = Vec::new();
        for (layer, signature) in signature::statements(&manifest) {
            let url = self.client.address(&format!("blobs/{}", layer.digest));
            let answer = self.client.get(&layer.digest.to_string(), &url, &[])?;
            let host = self.client.reference.registry.clone();
            let bytes = answer.into_body().into_with_config().limit(signature::LARGEST).read_to_vec();
            let bytes = bytes.map_err(|source| Error::Reach { host, source: Box::new(source) })?;
            let found = Digest::of(&bytes);
            if found != layer.digest {
                return Err(image::Error::Digest { expected: layer.digest.clone(), found }.into());
            }
            signed.push(Signed::new(bytes, signature));
        }
        Ok(signed)
    }

    /// A manifest or a list, and its media type.
    fn read(&self, version: &str) -> Result<(String, Vec<u8>), Error> {
        let accept = [INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let what = format!("{}:{version}", self.client.reference.name());
        let url = self.client.address(&format!("manifests/{version}"));
        let answer = self.client.get(&what, &url, &[("accept", &accept)])?;
        let kind =
            answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_owned();
        let host = self.client.reference.registry.clone();
        let bytes = answer.into_body().into_with_config().limit(LARGEST).read_to_vec();
        Ok((kind, bytes.map_err(|source| Error::Reach { host, source: Box::new(source) })?))
    }

    /// Reads on from where the download is.
    fn go_on(&self, blob: &Descriptor, download: &mut Download) -> Result<(), Error> {
        let url = self.client.address(&format!("blobs/{}", blob.digest));
        let range = format!("bytes={}-", download.have);
        let headers: &[(&str, &str)] = if download.have > 0 { &[("range", &range)] } else { &[] };
        let answer = self.client.get(&blob.digest.to_string(), &url, headers)?;
        // A server that knows no ranges begins anew.
        if download.have > 0 && answer.status() != 206 {
            download.restart()?;
        }
        let body = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let body = Paced { input: body, since: Instant::now(), brought: 0 };
        download.append(body, |have| self.progress.have(&blob.digest, have))?;
        Ok(())
    }

    fn download(&self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        loop {
            let Some(mut download) = store.download(&blob.digest, blob.size)? else { return Ok(()) };
            let resumed = download.resumed;
            self.progress.begin(&blob.digest, blob.size);
            if let Err(error) = self.bring(blob, &mut download) {
                // What has come may serve the next attempt, if there is room for it.
                if !is_final(&error) {
                    download.pause();
                }
                return Err(error);
            }
            match download.finish() {
                // After a crash of the machine, or with a server that does not keep what it says, the beginning may be wrong.
                Err(image::Error::Digest { .. }) if resumed => {}
                result => return Ok(result?),
            }
        }
    }

    /// Brings what is missing of a blob, over as many connections as that takes.
    fn bring(&self, blob: &Descriptor, download: &mut Download) -> Result<(), Error> {
        let mut times = 0;
        while !download.is_complete() {
            let before = download.have;
            let result = self.go_on(blob, download);
            // What has come counts: only a connection that brings next to nothing is one more failure.
            times = if download.have.saturating_sub(before) >= ENOUGH { 0 } else { times + 1 };
            match result {
                Ok(()) if download.is_complete() => break,
                Err(error) if is_final(&error) => return Err(error),
                Ok(()) if times >= ATTEMPTS => {
                    let (what, expected, found) = (blob.digest.to_string(), blob.size, download.have);
                    return Err(image::Error::Size { what, expected, found }.into());
                }
                Err(error @ (Error::Image(_) | Error::Reach { .. })) if times >= ATTEMPTS => {
                    let what = blob.digest.to_string();
                    return Err(Error::Broken { what, times, source: Box::new(error) });
                }
                // What the registry refuses has been tried often enough.
                Err(error) if !matches!(error, Error::Image(_) | Error::Reach { .. }) => return Err(error),
                _ => thread::sleep(backoff(times)),
            }
        }
        Ok(())
    }
}

/// It would fail again: more came than was announced, or there is no room for it.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Image(image::Error::Size { expected, found, .. }) => found > expected,
        Error::Image(image::Error::File { .. }) => true,
        _ => false,
    }
}

/// Gives a stream up that only drips, which a limit on silence would let run for years.
struct Paced<R> {
    input: R,
    since: Instant,
    brought: u64,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.brought += count as u64;
        if self.since.elapsed() >= SILENCE {
            if count > 0 && self.brought < SLOWEST {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "less than 1 KiB a second comes"));
            }
            (self.since, self.brought) = (Instant::now(), 0);
        }
        Ok(count)
    }
}

impl Origin for Remote {
    fn manifest(&self, of: &Descriptor) -> Result<Vec<u8>, image::Error> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match first {
            Some((digest, bytes)) if digest == of.digest => Ok(bytes),
            _ => Ok(self.read(&of.digest.to_string())?.1),
        }
    }

    fn fetch(&self, store: &Store, blob: &Descriptor) -> Result<(), image::Error> {
        Ok(self.download(store, blob)?)
    }

    fn tell(&self, event: Event<'_>) {
        match event {
            Event::Present(layer) => self.progress.done(&layer.digest, layer.size, "there already"),
            Event::Unpacking(layer) => self.progress.says(&layer.digest, "unpacking"),
            Event::Unpacked(layer) => self.progress.done(&layer.digest, layer.size, "ready"),
        }
    }
}
