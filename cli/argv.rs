//! Go's spelling of options, turned into ours before clap reads it.
//!
//! Engines write runc's options as Go programs do: `-no-subreaper`, `-bundle=X`. clap would read a cluster of short
//! options. A word that is exactly one dash and a known long option of the verb gets its second dash; the words of the
//! guest's command, the values of options, and everything behind `--` are left as they are.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Rewrite `argv`, whose first word is the program's name.
pub(crate) fn normalise(argv: Vec<OsString>, cli: &mut Command) -> Vec<OsString> {
    if !argv.iter().skip(1).any(is_candidate) {
        return argv;
    }
    // The options of the verbs are made when they are needed.
    cli.build();
    let mut words = argv.into_iter();
    let mut out: Vec<OsString> = words.next().into_iter().collect();
    let mut verb = &*cli;
    let mut positional = 0;
    while let Some(word) = words.next() {
        // A word that is not UTF-8 is no option of ours, so it counts as a positional.
        let kind = word.to_str().map_or(Kind::Positional, |text| classify(text, verb, positional));
        match kind {
            Kind::Guest => {
                out.push(word);
                break;
            }
            Kind::Option { value_follows } => {
                out.push(word);
                if value_follows {
                    out.extend(words.next());
                }
            }
            Kind::OneDash { value_follows } => {
                let mut long = OsString::from("-");
                long.push(&word);
                out.push(long);
                if value_follows {
                    out.extend(words.next());
                }
            }
            Kind::Positional if verb.has_subcommands() => {
                let subcommand = word.to_str().and_then(|name| verb.find_subcommand(name));
                out.push(word);
                match subcommand {
                    Some(found) => verb = found,
                    None => break,
                }
            }
            Kind::Positional => {
                positional += 1;
                out.push(word);
            }
        }
    }
    out.extend(words);
    out
}

/// The verb that `argv` names, if any: the first word that is neither an option nor its value.
pub(crate) fn verb(argv: &[OsString], cli: &Command) -> Option<String> {
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        let text = word.to_str()?;
        match classify(text, cli, 0) {
            Kind::Positional => return Some(text.to_owned()),
            Kind::Guest => return None,
            Kind::Option { value_follows: true } | Kind::OneDash { value_follows: true } => {
                words.next();
            }
            Kind::Option { .. } | Kind::OneDash { .. } => {}
        }
    }
    None
}

/// What a word is to the verb it follows.
enum Kind {
    /// From here on nothing is ours.
    Guest,
    /// An option as clap knows it.
    Option {
        value_follows: bool,
    },
    /// A long option with one dash.
    OneDash {
        value_follows: bool,
    },
    Positional,
}

fn classify(word: &str, verb: &Command, positional: usize) -> Kind {
    let next = verb.get_positionals().nth(positional);
    if word == "--" {
        return Kind::Guest;
    }
    let (name, inline) = match word.split_once('=') {
        Some((name, _)) => (name, true),
        None => (word, false),
    };
    if let Some(long) = name.strip_prefix("--") {
        let option = long_option(verb, long);
        return Kind::Option { value_follows: !inline && option.is_some_and(takes_value) };
    }
    match name.strip_prefix('-') {
        None | Some("") if next.is_some_and(Arg::is_trailing_var_arg_set) => Kind::Guest,
        None | Some("") => Kind::Positional,
        Some("help") => Kind::OneDash { value_follows: false },
        Some("version") if verb.has_subcommands() => Kind::OneDash { value_follows: false },
        Some(long) if long.chars().nth(1).is_some() && long_option(verb, long).is_some() => {
            let option = long_option(verb, long);
            Kind::OneDash { value_follows: !inline && option.is_some_and(takes_value) }
        }
        Some(_) => match cluster(&word[1..], verb) {
            Some(value_follows) => Kind::Option { value_follows },
            // The options of ps(1) in `vctx ps ID -ef` are not ours.
            None if next.is_some_and(Arg::is_allow_hyphen_values_set) => Kind::Guest,
            None => Kind::Option { value_follows: false },
        },
    }
}

/// Whether the value of a cluster of short options is the next word; `None` if a letter is unknown.
fn cluster(letters: &str, verb: &Command) -> Option<bool> {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        if letter == 'h' {
            continue;
        }
        let option = verb.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
        if takes_value(option) {
            return Some(rest.as_str().is_empty());
        }
    }
    Some(false)
}

fn long_option<'a>(verb: &'a Command, name: &str) -> Option<&'a Arg> {
    verb.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

/// One dash and at least two more letters: only such a word can be Go's spelling.
fn is_candidate(word: &OsString) -> bool {
    matches!(word.as_encoded_bytes(), [b'-', second, _, ..] if *second != b'-')
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn split(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn only_whole_long_options_of_the_verb_gain_a_dash() {
        let unchanged = "vctx exec -it web sh";
        let table = [
            ("vctx restore -x", "vctx restore -x"),
            ("vctx run -no-subreaper -bundle X ID", "vctx run --no-subreaper --bundle X ID"),
            (
                "vctx restore -detach -no-subreaper -pid-file P ID",
                "vctx restore --detach --no-subreaper --pid-file P ID",
            ),
            ("vctx run -bundle=X ID", "vctx run --bundle=X ID"),
            ("vctx delete ID -force", "vctx delete ID --force"),
            (
                "vctx -root /r -log-format json -debug kill -all ID",
                "vctx --root /r --log-format json --debug kill --all ID",
            ),
            ("vctx exec ID ls -all", "vctx exec ID ls -all"),
            ("vctx exec ID -tty ls -tty", "vctx exec ID --tty ls -tty"),
            ("vctx exec -cwd -tty ID ls", "vctx exec --cwd -tty ID ls"),
            ("vctx exec -e -tty ID ls", "vctx exec -e -tty ID ls"),
            ("vctx exec -te -tty ID ls", "vctx exec -te -tty ID ls"),
            ("vctx exec --user 1 -tty ID -- -tty", "vctx exec --user 1 --tty ID -- -tty"),
            ("vctx run host -- find -name x", "vctx run host -- find -name x"),
            ("vctx run host find -name x", "vctx run host find -name x"),
            ("vctx run -td host sh", "vctx run -td host sh"),
            ("vctx run -ulimit nofile=1 host sh", "vctx run --ulimit nofile=1 host sh"),
            ("vctx ps -format json ID -format", "vctx ps --format json ID --format"),
            ("vctx ps ID -ef -format", "vctx ps ID -ef -format"),
            ("vctx update -memory-swap -1 -resources=- ID", "vctx update --memory-swap -1 --resources=- ID"),
            ("vctx kill -help", "vctx kill --help"),
            ("vctx -version", "vctx --version"),
            ("vctx kill -unknown ID", "vctx kill -unknown ID"),
            ("vctx -- kill -all", "vctx -- kill -all"),
            ("vctx nosuch -all", "vctx nosuch -all"),
            (unchanged, unchanged),
        ];
        let mut cli = Cli::command();
        for (before, after) in table {
            assert_eq!(normalise(split(before), &mut cli), split(after), "{before}");
        }
    }

    #[test]
    fn the_verb_is_found_behind_global_options() {
        let cli = Cli::command();
        assert_eq!(verb(&split("vctx --root run exec x"), &cli).as_deref(), Some("exec"));
        assert_eq!(verb(&split("vctx -root run -debug state x"), &cli).as_deref(), Some("state"));
        assert_eq!(verb(&split("vctx --debug"), &cli), None);
    }
}
