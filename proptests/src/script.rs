//! Scripts: what is played against both servers, as data.
//!
//! A [`Script`] is a list of [`Step`]s plus the shape of the cluster. Arguments may hold
//! placeholders, filled in for each side when the step runs:
//! `{EP0}` a member's client URL, `{EPS}` all of them, `{PEER0}` a peer URL, `{SPARE}` a peer URL
//! that nobody uses, `{ID0}` a member's id in hex, `{MIRROR}` the client URL of a second cluster,
//! `{DIR}` a temporary folder, and every name that an earlier step captured.

/// A named list of steps against a cluster of a given shape.
#[derive(Clone, Debug)]
pub struct Script {
    /// Shown on failure.
    pub name: &'static str,
    /// Members of the cluster.
    pub members: usize,
    /// Whether a second cluster of one member runs beside it.
    pub mirror: bool,
    /// Further flags of each member.
    pub flags: Vec<String>,
    /// In order.
    pub steps: Vec<Step>,
}

/// A script on a one-node cluster.
pub fn script(name: &'static str, steps: Vec<Step>) -> Script {
    Script { name, members: 1, mirror: false, flags: Vec::new(), steps }
}

impl Script {
    /// On a cluster of that many members.
    pub fn members(mut self, members: usize) -> Script {
        self.members = members;
        self
    }

    /// With a second cluster, reachable as `{MIRROR}`.
    pub fn mirror(mut self) -> Script {
        self.mirror = true;
        self
    }

    /// With a further server flag.
    pub fn flag(mut self, flag: &str) -> Script {
        self.flags.push(flag.to_owned());
        self
    }
}

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Runs `etcdctl` to its end and records stdout, stderr and the exit code.
    Ctl(Ctl),
    /// Starts `etcdctl` in the background under a name.
    Spawn(String, Ctl),
    /// Waits until a background command has printed that many lines to stdout in all.
    AwaitLines(String, usize),
    /// Puts `key`=`sync` again and again until a background watcher shows it; those events are not recorded.
    Sync(String, String),
    /// Writes to the stdin of a background command.
    Feed(String, String),
    /// Kills a background command (SIGKILL) and records what it has printed.
    Stop(String),
    /// Sends SIGINT to a background command, waits for its end and records everything.
    Interrupt(String),
    /// Waits for the end of a background command and records everything.
    AwaitExit(String),
    /// Makes that member the leader (not recorded).
    Lead(usize),
    /// Kills that member with SIGKILL and starts it again.
    Restart(usize),
    /// Starts a further member that joins at the ports of `{SPARE}`, and waits until it serves if asked.
    Join(bool),
    /// Waits until that member's process has ended by itself, and records its exit code.
    AwaitMemberExit(usize),
}

/// One `etcdctl` command line and how its output is treated.
#[derive(Clone, Debug)]
pub struct Ctl {
    /// The command line after `etcdctl`, split as a shell would.
    pub line: String,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// (name, line, word): words of stdout to remember.
    pub captures: Vec<(String, usize, usize)>,
    /// Repeat until this holds (or a deadline); only the last run is recorded.
    pub until: Option<Until>,
    /// Sort the lines of both outputs first.
    pub sorted: bool,
    /// Show a run of equal lines once: how often it repeats is a matter of time.
    pub collapsed: bool,
    /// Record stdout as a decoded protobuf message.
    pub protobuf: bool,
    /// Leave the exit code out: it follows from something that may differ.
    pub exit_unchecked: bool,
    /// Do not record: a preparation whose output may differ.
    pub silent: bool,
    /// (regular expression, replacement) applied to both outputs after the common normalisation.
    pub replacements: Vec<(&'static str, &'static str)>,
}

/// What a repeated command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Exit code 0.
    Success,
    /// Another exit code.
    Failure,
    /// Exactly that many lines on stdout.
    Lines(usize),
    /// That text on stdout.
    Contains(&'static str),
}

/// A command line with default treatment.
pub fn ctl(line: &str) -> Step {
    Step::Ctl(Ctl {
        line: line.to_owned(),
        stdin: Vec::new(),
        captures: Vec::new(),
        until: None,
        sorted: false,
        collapsed: false,
        protobuf: line.contains("-w protobuf"),
        exit_unchecked: false,
        silent: false,
        replacements: Vec::new(),
    })
}

/// Several command lines with default treatment.
pub fn all(lines: &[&str]) -> Vec<Step> {
    lines.iter().map(|line| ctl(line)).collect()
}

/// A background command.
pub fn spawn(name: &str, line: &str) -> Step {
    let Step::Ctl(command) = ctl(line) else { unreachable!("ctl builds a Ctl step") };
    Step::Spawn(name.to_owned(), command)
}

/// See [`Step::AwaitLines`].
pub fn await_lines(name: &str, lines: usize) -> Step {
    Step::AwaitLines(name.to_owned(), lines)
}

/// See [`Step::Sync`].
pub fn sync(name: &str, key: &str) -> Step {
    Step::Sync(name.to_owned(), key.to_owned())
}

/// See [`Step::Feed`].
pub fn feed(name: &str, text: &str) -> Step {
    Step::Feed(name.to_owned(), text.to_owned())
}

/// See [`Step::Stop`].
pub fn stop(name: &str) -> Step {
    Step::Stop(name.to_owned())
}

/// See [`Step::Interrupt`].
pub fn interrupt(name: &str) -> Step {
    Step::Interrupt(name.to_owned())
}

/// See [`Step::AwaitExit`].
pub fn await_exit(name: &str) -> Step {
    Step::AwaitExit(name.to_owned())
}

impl Step {
    fn change(mut self, change: impl FnOnce(&mut Ctl)) -> Step {
        match &mut self {
            Step::Ctl(command) | Step::Spawn(_, command) => change(command),
            other => panic!("{other:?} is not a command"),
        }
        self
    }

    /// Feeds stdin.
    pub fn stdin(self, text: impl Into<Vec<u8>>) -> Step {
        self.change(|command| command.stdin = text.into())
    }

    /// Remembers a word of stdout under a name; later outputs show the name instead.
    pub fn capture(self, name: &str, line: usize, word: usize) -> Step {
        self.change(|command| command.captures.push((name.to_owned(), line, word)))
    }

    /// Repeats until it holds.
    pub fn until(self, until: Until) -> Step {
        self.change(|command| command.until = Some(until))
    }

    /// For outputs whose line order is no promise.
    pub fn sorted(self) -> Step {
        self.change(|command| command.sorted = true)
    }

    /// For lines that repeat by the clock.
    pub fn collapsed(self) -> Step {
        self.change(|command| command.collapsed = true)
    }

    /// For verdicts about speed.
    pub fn exit_unchecked(self) -> Step {
        self.change(|command| command.exit_unchecked = true)
    }

    /// For preparations.
    pub fn silent(self) -> Step {
        self.change(|command| command.silent = true)
    }

    /// For a value that may differ here only.
    pub fn replace(self, pattern: &'static str, with: &'static str) -> Step {
        self.change(|command| command.replacements.push((pattern, with)))
    }
}

/// Splits a command line: blanks separate, single and double quotes group, nothing else is special.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    assert!(quote.is_none(), "unbalanced quote in {line:?}");
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    #[test]
    fn splits_with_quotes_and_keeps_empty_words() {
        assert_eq!(super::split("put '' \"a b\" c'd e'"), ["put", "", "a b", "cd e"]);
    }
}
