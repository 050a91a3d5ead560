//! Throughput: the same work as a plain process and in a context, paired; and many at once.
//!
//! The context sees the machine's own programs, and a folder at the same path as outside, on the same file system. What is
//! timed is the work, and not the start: the work writes its own time, or its rate, into that folder.

use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::bundle::{Ask, Bundle};
use super::measure::{self, Before, Contender, Round, Sample};
use super::peer::Peer;
use super::starts::{pid_of, wait_until_gone};
use super::statistics::{self, Better, Measure, Value};
use super::{Bench, Result};

/// One kind of work: a name, the program that it needs, and a shell script. The script's folder is `$PWD`.
const WORK: [(&str, &str, &str); 6] = [
    ("processor: xz", "xz", "xz -T1 -2 -c data >/dev/null"),
    ("files: untar and remove", "tar", "mkdir out && tar -xf tree.tar -C out && rm -r out"),
    ("calls: getppid", "sh", "./work calls 2000000"),
    ("calls: stat", "sh", "./work stats 400000"),
    ("database: sqlite", "sqlite3", "rm -f db; sqlite3 db <statements >/dev/null"),
    ("processes: fork and exec", "sh", "n=0; while [ $n -lt 400 ]; do /bin/true; n=$((n+1)); done"),
];

/// What serves and asks: nginx in the folder `$PWD`, asked by wrk over the loopback device.
const WEB: &str = "nginx -p $PWD -c nginx.conf -e stderr && ./work until $FROM && \
    wrk -t1 -c8 -d1s http://127.0.0.1:$PORT/index.html | sed -n 's/^Requests.sec: *//p' >result; nginx -p $PWD -c nginx.conf -s stop";

/// A folder in which work is done, and the bundle that shows it to a context.
struct Place {
    dir: PathBuf,
    bundle: Bundle,
}

impl Place {
    fn new(bench: &Bench, name: &str, ask: Ask) -> Result<Place> {
        let dir = bench.workspace.dir.join(format!("work-{name}"));
        fs::create_dir_all(&dir)?;
        fs::copy(work_program()?, dir.join("work"))?;
        let root = system_root(bench)?;
        fs::create_dir_all(root.join(dir.strip_prefix("/")?))?;
        let mut bundle = Bundle::write(&bench.workspace, &format!("inside-{name}"), ask, &["sh", "script"])?;
        bundle.config["root"]["path"] = json!(root);
        bundle.config["process"]["cwd"] = json!(dir);
        bundle.config["process"]["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        bundle.config["linux"]["namespaces"]
            .as_array_mut()
            .ok_or("no list")?
            .retain(|kind| kind["type"] != "uts");
        bundle.config.as_object_mut().ok_or("no object")?.remove("hostname");
        let mounts = bundle.config["mounts"].as_array_mut().ok_or("no list")?;
        for (path, options) in [(Path::new("/usr"), "ro"), (Path::new("/etc"), "ro"), (dir.as_path(), "rw")] {
            let options = json!(["rbind", "rprivate", options]);
            mounts.push(json!({ "destination": path, "type": "bind", "source": path, "options": options }));
        }
        bundle.save()?;
        Ok(Place { dir, bundle })
    }

    fn script(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.dir.join("script"), text)?)
    }

    /// The same as a plain process.
    fn plain(&self) -> Command {
        let mut command = Command::new("sh");
        command.arg("script").current_dir(&self.dir).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The numbers that the work has left.
    fn results(&self) -> Result<Vec<f64>> {
        let path = self.dir.join("result");
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        fs::remove_file(&path)?;
        let numbers = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>();
        Ok(numbers.map_err(|_| format!("the work says {text:?} where numbers should be"))?)
    }
}

fn work_program() -> Result<PathBuf> {
    let beside =
        std::env::current_exe()?.parent().and_then(Path::parent).map(|dir| dir.join("examples/work"));
    let path = std::env::var_os("VCTX_BENCH_WORK").map(PathBuf::from).or(beside).ok_or("no folder")?;
    if path.exists() { Ok(path) } else { Err(format!("{} is not built", path.display()).into()) }
}

/// A root with places for what is bound into it, laid down once.
fn system_root(bench: &Bench) -> Result<PathBuf> {
    let root = bench.workspace.dir.join("system");
    if !root.exists() {
        for folder in ["usr", "etc", "proc", "dev", "sys", "tmp", "run", "var/lib/nginx", "var/log/nginx"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for link in
            ["bin", "sbin", "lib", "lib64"].iter().filter(|link| Path::new("/").join(link).is_symlink())
        {
            symlink(format!("usr/{link}"), root.join(link))?;
        }
    }
    Ok(root)
}

/// Each kind of work: plain, in a context, and in a context with the engines' filter (of vctx, and of crun beside it).
pub fn inside(bench: &mut Bench) -> Result<Vec<Measure>> {
    let mut all = vec![];
    let open = Place::new(bench, "open", Ask::Plain)?;
    let filtered = Place::new(bench, "filtered", Ask::Seccomp).ok();
    for place in [Some(&open), filtered.as_ref()].into_iter().flatten() {
        material(&place.dir)?;
    }
    for (name, program, work) in WORK {
        if measure::which(program).is_none() {
            all.extend(bench.nothing(name, &format!("{program} is not installed")));
            continue;
        }
        fs::write(open.dir.join("work.sh"), format!("set -e\n{work}\n"))?;
        if let Some(filtered) = &filtered {
            fs::copy(open.dir.join("work.sh"), filtered.dir.join("work.sh"))?;
        }
        let script = "exec ./work time sh work.sh >result\n";
        for place in [Some(&open), filtered.as_ref()].into_iter().flatten() {
            place.script(script)?;
        }
        all.push(one_work(bench, name, &open, filtered.as_ref())?);
    }
    Ok(all)
}

fn one_work(bench: &mut Bench, name: &str, open: &Place, filtered: Option<&Place>) -> Result<Measure> {
    let mut places: Vec<(&str, Option<Peer>, &Place)> =
        vec![("plain", None, open), ("vctx", bench.peer("vctx"), open)];
    if let Some(filtered) = filtered {
        places.push(("vctx+seccomp", bench.peer("vctx"), filtered));
        places.extend(bench.peer("crun").map(|crun| ("crun+seccomp", Some(crun), filtered)));
    }
    let contenders = places.into_iter().map(|(name, peer, place)| {
        let round = move |number| -> Result<Round> {
            match &peer {
                Some(peer) => measure::time(&mut peer.run(&place.bundle, &peer.id(number))?)?,
                None => measure::time(&mut place.plain())?,
            };
            let [wall, cpu] = place.results()?[..] else { return Err("the work leaves no two times".into()) };
            Ok(vec![("", Sample { wall, cpu })])
        };
        Contender { name, round: Box::new(round) }
    });
    let (contenders, rounds) = (contenders.collect(), bench.rounds.min(15));
    let (samples, notes) =
        measure::rounds(&bench.workspace, &mut bench.dice, rounds, Before::BackToBack, contenders)?;
    let mut measure = statistics::measures(name, &samples, &notes).pop().ok_or("nothing was measured")?;
    let of = &samples[""];
    for (who, own) in of.iter().filter(|(who, _)| *who != "plain") {
        let Some(plain) = of.get("plain") else { continue };
        let least = |samples: &[Sample]| statistics::spread(samples.iter().map(|sample| sample.cpu)).minimum;
        let pairs = [
            ("wall time, median of pairs", statistics::paired(plain, own, |sample| sample.wall)),
            ("processor time, median of pairs", statistics::paired(plain, own, |sample| sample.cpu)),
            ("processor time, least of each", Some(least(plain) / least(own))),
        ];
        for (what, ratio) in pairs {
            let name = format!("{who}: throughput over a plain process's, by {what}");
            measure.values.extend(ratio.map(|ratio| Value::new(name, ratio, "", Better::More)));
        }
    }
    super::report::print(&measure);
    Ok(measure)
}

/// What the work works on; the same bytes on every machine.
fn material(dir: &Path) -> Result<()> {
    let mut dice = measure::Dice(1);
    let words: Vec<String> = (0..220_000).map(|_| format!("{:x} ", dice.next() % 5000)).collect();
    fs::write(dir.join("data"), words.concat())?;
    let tree = dir.join("tree");
    for folder in 0..20 {
        fs::create_dir_all(tree.join(folder.to_string()))?;
        for file in 0..60 {
            let text = words[file * 100..file * 100 + 400 + folder].concat();
            fs::write(tree.join(folder.to_string()).join(format!("{file}.txt")), text)?;
        }
    }
    measure::time(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(dir.join("tree.tar")).arg("tree"))?;
    let row = |row: usize| format!("INSERT INTO t VALUES ({row}, '{}');\n", words[row % 1000]);
    let rows: String = (0..20_000).map(row).collect();
    let asked = "SELECT count(*), sum(length(b)) FROM t WHERE b LIKE '%a%';\n".repeat(20);
    let text = format!(
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);\nBEGIN;\n{rows}COMMIT;\nCREATE INDEX i ON t(b);\n{asked}"
    );
    Ok(fs::write(dir.join("statements"), text)?)
}

fn microseconds_from_now(wait: Duration) -> u64 {
    let then = SystemTime::now() + wait;
    then.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Web servers, each in a context with its own loopback device, against as many plain ones.
pub fn web(bench: &mut Bench) -> Result<Vec<Measure>> {
    if ["nginx", "wrk"].iter().any(|program| measure::which(program).is_none()) {
        return Ok(bench.nothing("web servers", &"nginx or wrk is not installed"));
    }
    let mut measure = Measure::named("web servers, requests of all in a second");
    let places: Vec<Place> = (0..16)
        .map(|number| Place::new(bench, &format!("web-{number}"), Ask::Plain))
        .collect::<Result<_>>()?;
    for count in [1, 2, 4, 8, 16] {
        many(bench, &mut measure, &places[..count], 5, |place, number, from| {
            let port = 18_080 + number;
            fs::write(place.dir.join("nginx.conf"), nginx(port))?;
            fs::write(place.dir.join("index.html"), "a".repeat(612))?;
            place.script(&format!("FROM={from}\nPORT={port}\n{WEB}\n"))
        })?;
    }
    super::report::print(&measure);
    Ok(vec![measure])
}

fn nginx(port: usize) -> String {
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path tmp;"));
    format!(
        "user root; worker_processes 1; pid nginx.pid; error_log stderr;\nevents {{ worker_connections 64; }}\n\
         http {{ access_log off; {} server {{ listen 127.0.0.1:{port}; root .; }} }}\n",
        temporary.join(" ")
    )
}

/// 1 to 128 contexts that count what they have done in the same second, against as many plain processes.
pub fn density(bench: &mut Bench) -> Result<Vec<Measure>> {
    let mut measure = Measure::named("work of all in a second");
    let places: Vec<Place> = (0..1024)
        .map(|number| Place::new(bench, &format!("many-{number}"), Ask::Plain))
        .collect::<Result<_>>()?;
    for (count, rounds) in [(1, 7), (8, 7), (32, 5), (128, 5), (1024, 1)] {
        many(bench, &mut measure, &places[..count], rounds, |place, _, from| {
            place.script(&format!("exec ./work count {from} {} >result\n", from + 1_000_000))
        })?;
    }
    super::report::print(&measure);
    Ok(vec![measure])
}

/// Runs the places at once, in turn as plain processes and as detached contexts, and notes the sums and their ratio.
fn many(
    bench: &mut Bench,
    measure: &mut Measure,
    places: &[Place],
    rounds: usize,
    prepare: impl Fn(&Place, usize, u64) -> Result<()>,
) -> Result<()> {
    let vctx = bench.peer("vctx").ok_or("vctx is missing")?;
    let count = places.len();
    let (mut plain, mut contexts) = (vec![], vec![]);
    for round in 0..rounds {
        let mut order = [true, false];
        bench.dice.shuffle(&mut order);
        for inside in order {
            bench.workspace.go_on()?;
            // All are ready by then, even on a busy machine.
            let from = microseconds_from_now(Duration::from_millis(700 + 40 * count as u64));
            places.iter().enumerate().try_for_each(|(number, place)| prepare(place, number, from))?;
            if inside {
                in_contexts(&vctx, places, round)?;
            } else {
                as_processes(places)?;
            }
            let each = places.iter().map(Place::results).collect::<Result<Vec<_>>>()?;
            let sum = each.concat().iter().sum();
            if inside {
                contexts.push(Sample { wall: sum, cpu: 0.0 })
            } else {
                plain.push(Sample { wall: sum, cpu: 0.0 })
            }
        }
    }
    let ratio = statistics::paired(&contexts, &plain, |sample| sample.wall).unwrap_or_default();
    let median = |samples: &[Sample]| statistics::spread(samples.iter().map(|sample| sample.wall)).median;
    let value = |what: &str, value, better| Value::new(format!("{count}: {what}"), value, "", better);
    measure.values.push(value("plain processes", median(&plain), Better::Neither));
    measure.values.push(value("contexts", median(&contexts), Better::Neither));
    measure.values.push(value("contexts over plain processes", ratio, Better::More));
    Ok(())
}

fn as_processes(places: &[Place]) -> Result<()> {
    let start = |place: &Place| Ok(place.plain().stderr(File::create(place.dir.join("errors"))?).spawn()?);
    let children: Vec<Child> = places.iter().map(start).collect::<Result<_>>()?;
    children.into_iter().try_for_each(|mut child| child.wait().map(drop))?;
    Ok(())
}

fn in_contexts(vctx: &Peer, places: &[Place], round: usize) -> Result<()> {
    let ids: Vec<String> = (0..places.len()).map(|number| vctx.id(1000 * (round + 1) + number)).collect();
    for (place, id) in places.iter().zip(&ids) {
        vctx.launch(&place.bundle, id)?;
    }
    for id in &ids {
        if let Ok(pid) = pid_of(vctx, id) {
            wait_until_gone(pid)?;
        }
        measure::time(&mut vctx.verb(&["delete", id]))?;
    }
    Ok(())
}
