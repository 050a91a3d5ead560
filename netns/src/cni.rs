//! Networks that CNI plugins make (Container Network Interface, version 0.3.0 to 1.1.0), from the configurations and
//! plugins that engines use: `--net cni:NAME`.
//!
//! What a plugin has made, only it can take away. So what was asked of which is written to a file that outlives a reboot,
//! before the first plugin runs and after each: a killed command and a machine that lost power leave enough to delete with.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ports::Publish;
use crate::{Error, Result, file};

mod plugin;

use plugin::{Plugin, Verb};

/// Where configurations lie, unless NETCONFPATH says otherwise, which is the name that others use for it.
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// The versions of configurations whose results we understand.
const VERSIONS: [&str; 6] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.0.1", "1.1.0"];

/// The context's device.
const DEVICE: &str = "eth0";

/// The longest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A configuration: plugins that are called one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its name.
    pub name: String,
    /// Where it was read.
    pub file: PathBuf,
    version: String,
    check: bool,
    plugins: Vec<Map<String, Value>>,
}

/// What a context has, or is about to have, of a configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// The context.
    pub id: String,
    /// The configuration, as it was then: one that was changed meanwhile would delete something else.
    pub configuration: Configuration,
    /// A file by which its namespace is known.
    pub netns: PathBuf,
    ports: Vec<Publish>,
    address: Option<IpAddr>,
    /// What the plugins have said so far.
    pub result: Option<Value>,
    /// A plugin is at work, or was when we were killed.
    busy: bool,
}

/// Where attachments are written down.
#[derive(Debug, Clone)]
pub struct Attachments {
    folder: PathBuf,
}

/// A name of a configuration (specification, "Network configuration format").
#[must_use]
pub fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(rest)
        && text.len() <= 128
}

/// The configuration leads these ports to contexts.
///
/// # Errors
///
/// It leads none.
pub fn check(configuration: &Configuration, ports: &[Publish]) -> Result<()> {
    match ports.is_empty() || configuration.has("portMappings") {
        true => Ok(()),
        false => Err(Error::NoPortMappings(configuration.name.clone())),
    }
}

impl Configuration {
    /// All configurations that can be read, by file.
    #[must_use]
    pub fn list() -> Vec<Configuration> {
        let folder = std::env::var_os("NETCONFPATH").map_or(PathBuf::from(CONFIGURATIONS), PathBuf::from);
        let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
        let mut files: Vec<PathBuf> = entries.unwrap_or_default().iter().map(fs::DirEntry::path).collect();
        files.sort();
        files.iter().filter_map(|file| Configuration::read(file).ok()).collect()
    }

    /// The first configuration of this name.
    ///
    /// # Errors
    ///
    /// There is none, or it is not one that we can use; or a plugin of it is missing.
    pub fn find(name: &str) -> Result<Configuration> {
        let folder = std::env::var_os("NETCONFPATH").map_or(PathBuf::from(CONFIGURATIONS), PathBuf::from);
        let absent = || Error::NoConfiguration { name: name.into(), folder: folder.clone() };
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent()),
            result => result.map_err(Error::file("read", &folder))?,
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let mut damaged = None;
        for file in files.iter().filter(|file| is_configuration(file)) {
            match Configuration::read(file) {
                Ok(found) if found.name == name => {
                    found.check()?;
                    return Ok(found);
                }
                Ok(_) => {}
                // It may be the one that is wanted.
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        Err(damaged.unwrap_or_else(absent))
    }

    fn read(path: &Path) -> Result<Configuration> {
        if !is_configuration(path) || fs::metadata(path).is_ok_and(|about| about.len() > LIMIT) {
            return Err(wrong(path, "it is no configuration"));
        }
        let bytes = fs::read(path).map_err(Error::file("read", path))?;
        let damaged = |source| Error::Damaged { path: path.into(), source };
        let value: Map<String, Value> = serde_json::from_slice(&bytes).map_err(damaged)?;
        Configuration::of(path, value)
    }

    /// A list of plugins, or a file of one.
    fn of(path: &Path, value: Map<String, Value>) -> Result<Configuration> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let name = text("name").filter(|name| is_name(name)).ok_or_else(|| wrong(path, "it has no name"))?;
        let version = text("cniVersion").unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(wrong(path, "its cniVersion is none from 0.3.0 to 1.1.0"));
        }
        let plugins = match value.get("plugins") {
            None => vec![value.clone()],
            Some(list) => {
                let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
                let plugins: Option<Vec<_>> = list.iter().map(|one| one.as_object().cloned()).collect();
                plugins.filter(|list| !list.is_empty()).ok_or_else(|| wrong(path, "it has no plugins"))?
            }
        };
        let kind = |plugin: &Map<String, Value>| plugin.get("type")?.as_str().map(str::to_owned);
        // A type with a slash would be a program anywhere.
        if !plugins.iter().all(|plugin| kind(plugin).is_some_and(|kind| is_name(&kind))) {
            return Err(wrong(path, "a plugin of it has no type, or one that is no file name"));
        }
        let check = value.get("disableCheck").and_then(Value::as_bool) != Some(true);
        Ok(Configuration { name, file: path.into(), version, check, plugins })
    }

    /// The names of its plugins, in the order in which they are called.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        self.plugins.iter().map(kind).collect()
    }

    /// The plugins are there.
    fn check(&self) -> Result<()> {
        self.plugins.iter().try_for_each(|plugin| Plugin::find(&kind(plugin), &self.name).map(drop))
    }

    fn has(&self, capability: &str) -> bool {
        let has = |plugin: &Map<String, Value>| plugin.get("capabilities")?.get(capability)?.as_bool();
        self.plugins.iter().any(|plugin| has(plugin) == Some(true))
    }
}

impl Attachment {
    /// What is to be asked for.
    #[must_use]
    pub fn wanted(
        configuration: Configuration,
        id: &str,
        netns: PathBuf,
        ports: Vec<Publish>,
        address: Option<IpAddr>,
    ) -> Attachment {
        Attachment { id: id.into(), configuration, netns, ports, address, result: None, busy: false }
    }

    /// Calls the plugins for a namespace that is there, one after the other, each with what those before have said.
    ///
    /// # Errors
    ///
    /// A plugin fails. What those before have made goes with [`delete`](Attachment::delete).
    pub fn add(&mut self, attachments: &Attachments) -> Result<()> {
        self.busy = true;
        attachments.write(self)?;
        for plugin in self.configuration.plugins.clone() {
            let said = self.call(Verb::Add, &plugin, &self.netns)?;
            let kind = kind(&plugin);
            let name = || self.configuration.name.clone();
            let said =
                said.filter(Value::is_object).ok_or_else(|| Error::Garbage { plugin: kind, name: name() })?;
            self.result = Some(said);
            attachments.write(self)?;
        }
        self.busy = false;
        attachments.write(self)
    }

    /// Asks the plugins whether all is as they have made it.
    ///
    /// # Errors
    ///
    /// One says no.
    pub fn check(&self) -> Result<()> {
        let knows = self.configuration.version.as_str() >= "0.4.0" && self.configuration.check;
        if !knows || self.result.is_none() {
            return Ok(());
        }
        self.configuration
            .plugins
            .iter()
            .try_for_each(|plugin| self.call(Verb::Check, plugin, &self.netns).map(drop))
    }

    /// Has the plugins take away what they have made, the last one first. All are asked, also after one that fails.
    ///
    /// # Errors
    ///
    /// A plugin fails. The attachment is still written down then.
    pub fn delete(&self, attachments: &Attachments) -> Result<()> {
        if self.busy {
            // What a killed command of ours has started would make things after they were taken away.
            plugin::end_strays(&self.id, &self.netns)?;
        }
        let mut result = Ok(());
        for plugin in self.configuration.plugins.iter().rev() {
            let mut deleted = self.call(Verb::Delete, plugin, &self.netns).map(drop);
            if deleted.is_err() && self.busy {
                // One that was killed half way finds less there than it looks for. Without a namespace it gives back what
                // it can.
                deleted = self.call(Verb::Delete, plugin, Path::new("")).map(drop);
            }
            result = result.and(deleted);
        }
        result.map_err(|error| Error::Undeleted {
            path: attachments.path(&self.id),
            source: Box::new(error),
        })?;
        file::remove(&attachments.path(&self.id))
    }

    /// The addresses that the plugins have given.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result.get("ips")?.as_array());
        let address = |ip: &Value| ip.get("address")?.as_str()?.split('/').next()?.parse().ok();
        ips.into_iter().flatten().filter_map(address).collect()
    }

    /// What the plugins say of name servers, as resolv.conf(5); none if they say nothing.
    #[must_use]
    pub fn resolv_conf(&self) -> Option<String> {
        let dns = self.result.as_ref()?.get("dns")?;
        // A line break would begin a line of somebody else's choice.
        let plain = |text: &&str| !text.contains(char::is_control);
        let words = |field: &str| -> Vec<&str> {
            let list = dns.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).filter(plain).collect()
        };
        let servers = words("nameservers");
        if servers.is_empty() {
            return None;
        }
        let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        for (word, list) in [("search", words("search")), ("options", words("options"))] {
            if !list.is_empty() {
                text.push_str(&format!("{word} {}\n", list.join(" ")));
            }
        }
        Some(text)
    }

    fn call(&self, verb: Verb, plugin: &Map<String, Value>, netns: &Path) -> Result<Option<Value>> {
        let mut text = plugin.clone();
        text.insert("cniVersion".into(), self.configuration.version.clone().into());
        text.insert("name".into(), self.configuration.name.clone().into());
        let capable =
            |name: &str| plugin.get("capabilities").and_then(|all| all.get(name)) == Some(&true.into());
        let mut runtime = Map::new();
        if capable("portMappings") && !self.ports.is_empty() {
            runtime.insert("portMappings".into(), self.ports.iter().flat_map(mappings).collect());
        }
        let address = self.address.map(|address| address.to_string());
        if let Some(address) = address.as_ref().filter(|_| capable("ips")) {
            runtime.insert("ips".into(), json!([address]));
        }
        text.remove("capabilities");
        if !runtime.is_empty() {
            text.insert("runtimeConfig".into(), runtime.into());
        }
        // Of version 0.3 only those that add know what came before.
        let before = self
            .result
            .as_ref()
            .filter(|_| verb == Verb::Add || self.configuration.version.as_str() >= "0.4.0");
        text.extend(before.map(|result| ("prevResult".to_owned(), result.clone())));
        // A namespace that is gone is none (specification, "DEL").
        let netns = if netns.exists() { netns } else { Path::new("") };
        let arguments = match address.filter(|_| !capable("ips")) {
            Some(address) => format!("IgnoreUnknown=1;IP={address}"),
            None => "IgnoreUnknown=1".into(),
        };
        Plugin::find(&kind(plugin), &self.configuration.name)?.call(
            verb,
            &Value::Object(text),
            &[
                ("CNI_CONTAINERID", self.id.as_ref()),
                ("CNI_NETNS", netns.as_os_str()),
                ("CNI_IFNAME", DEVICE.as_ref()),
                ("CNI_ARGS", arguments.as_ref()),
            ],
        )
    }
}

impl Attachments {
    /// In this folder, which outlives a reboot.
    #[must_use]
    pub fn at(folder: PathBuf) -> Attachments {
        Attachments { folder }
    }

    /// Where they lie.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a context has, or had, if it was written down.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is damaged.
    pub fn of(&self, id: &str) -> Result<Option<Attachment>> {
        let path = self.path(id);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => {
                let bytes = result.map_err(Error::file("read", &path))?;
                serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Damaged { path, source })
            }
        }
    }

    /// All that are written down, by context.
    ///
    /// # Errors
    ///
    /// The folder or a file cannot be read.
    pub fn list(&self) -> Result<Vec<Attachment>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::file("read", &self.folder))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
        ids.sort();
        let each: Result<Vec<Option<Attachment>>> = ids.iter().map(|id| self.of(id)).collect();
        Ok(each?.into_iter().flatten().collect())
    }

    fn write(&self, attachment: &Attachment) -> Result<()> {
        let path = self.path(&attachment.id);
        fs::create_dir_all(&self.folder).map_err(Error::file("make", &self.folder))?;
        let bytes = serde_json::to_vec_pretty(attachment)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        file::replace(&path, &bytes)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn is_configuration(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("conflist" | "conf" | "json")) && path.is_file()
}

fn wrong(path: &Path, reason: &'static str) -> Error {
    Error::Configuration { path: path.into(), reason }
}

/// The program's name; it was looked at when the configuration was read.
fn kind(plugin: &Map<String, Value>) -> String {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn mappings(publish: &Publish) -> impl Iterator<Item = Value> + '_ {
    let address = publish.address.map_or(String::new(), |address| address.to_string());
    publish.pairs().map(move |(host, guest)| {
        json!({ "hostPort": host, "containerPort": guest, "protocol": publish.protocol(), "hostIP": address })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Configuration> {
        Configuration::of(Path::new("/x.conflist"), serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_configuration_is_a_list_of_plugins_or_one() {
        let list =
            read(r#"{"cniVersion":"0.4.0","name":"a","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#);
        assert_eq!(list.unwrap().plugins.len(), 2);
        assert_eq!(read(r#"{"cniVersion":"1.0.0","name":"a","type":"ptp"}"#).unwrap().plugins.len(), 1);
        for wrong in [
            r#"{"cniVersion":"0.4.0","plugins":[{"type":"bridge"}]}"#,
            r#"{"cniVersion":"0.4.0","name":"../a","type":"ptp"}"#,
            r#"{"cniVersion":"0.2.0","name":"a","type":"ptp"}"#,
            r#"{"name":"a","type":"ptp"}"#,
            r#"{"cniVersion":"0.4.0","name":"a","plugins":[]}"#,
            r#"{"cniVersion":"0.4.0","name":"a","plugins":{}}"#,
            r#"{"cniVersion":"0.4.0","name":"a","plugins":[{"type":"../../bin/sh"}]}"#,
            r#"{"cniVersion":"0.4.0","name":"a","plugins":["bridge"]}"#,
            r#"{"cniVersion":"0.4.0","name":"a"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_need_a_plugin_that_maps_them() {
        let ports = vec!["8080-8081:80-81".parse().unwrap()];
        let plain = read(r#"{"cniVersion":"0.4.0","name":"a","type":"ptp"}"#).unwrap();
        assert!(check(&plain, &ports).is_err());
        let listed: Vec<Value> = ports.iter().flat_map(mappings).collect();
        assert_eq!(
            listed[1],
            json!({"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": ""})
        );
    }

    #[test]
    fn what_plugins_say_of_names_is_one_line_each() {
        let plain = read(r#"{"cniVersion":"0.4.0","name":"a","type":"ptp"}"#).unwrap();
        let mut one = Attachment::wanted(plain, "x", "/n".into(), Vec::new(), None);
        assert_eq!(one.resolv_conf(), None);
        one.result = Some(json!({
            "ips": [{ "address": "10.0.0.2/24" }, { "address": "fd00::2/64" }, { "address": 7 }],
            "dns": { "nameservers": ["10.0.0.1", "1\nsearch evil"], "search": ["a", "b"] },
        }));
        assert_eq!(one.resolv_conf().unwrap(), "nameserver 10.0.0.1\nsearch a b\n");
        assert_eq!(one.addresses().len(), 2);
    }
}
