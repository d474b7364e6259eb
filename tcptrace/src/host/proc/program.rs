//! Names a process as a person would: an interpreter by the script that it runs, a VM by its jar or
//! main class, anything else by its executable.
//!
//! No other argument is ever named: arguments hold secrets.

/// An interpreter or a VM: the names of its executables, and how it takes its arguments.
struct Runtime {
    /// How the names of its executables begin; a version may follow.
    names: &'static [&'static str],
    /// Whether an option of many letters begins with one dash, as Java's do, so that no option is a
    /// group of letters.
    has_words_after_one_dash: bool,
    /// Options whose value is the next argument.
    with_value: &'static [&'static str],
    /// Letters in a group of options that have a value: the rest of the group, or else the next
    /// argument.
    letters_with_value: &'static str,
    /// Letters in a group of options whose value is the rest of the group.
    letters_with_rest: &'static str,
    /// Letters whose value is code, or after which code is read from stdin: there is no script.
    letters_with_code: &'static str,
    /// The letter, or the option, whose value is the module to run.
    module_options: &'static [&'static str],
    /// How the names of scripts end. What follows an option that is not known counts as a script
    /// only if its name ends like this.
    endings: &'static [&'static str],
}

/// What no runtime is: the parts that a runtime does not have.
const NONE: Runtime = Runtime {
    names: &[],
    has_words_after_one_dash: false,
    with_value: &[],
    letters_with_value: "",
    letters_with_rest: "",
    letters_with_code: "",
    module_options: &[],
    endings: &[],
};

const RUNTIMES: [Runtime; 7] = [
    // python3 --help
    Runtime {
        names: &["python", "pypy"],
        with_value: &["--check-hash-based-pycs"],
        letters_with_value: "WX",
        letters_with_code: "c",
        module_options: &["-m"],
        endings: &[".py", ".pyz", ".pyc"],
        ..NONE
    },
    // java --help, java --help-extra
    Runtime {
        names: &["java"],
        has_words_after_one_dash: true,
        with_value: &[
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--upgrade-module-path",
            "--add-modules",
            "--limit-modules",
            "--add-reads",
            "--add-exports",
            "--add-opens",
            "--patch-module",
            "--source",
            "--enable-native-access",
            "--illegal-native-access",
            "--finalization",
            "-d",
            "--describe-module",
        ],
        module_options: &["-m", "--module"],
        endings: &[".jar", ".java"],
        ..NONE
    },
    // node --help
    Runtime {
        names: &["node"],
        with_value: &[
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "--conditions",
            "--env-file",
            "--title",
            "--icu-data-dir",
            "--openssl-config",
            "--input-type",
            "--inspect-port",
            "--debug-port",
            "--max-http-header-size",
            "--max-old-space-size",
            "--redirect-warnings",
            "--disable-warning",
            "--unhandled-rejections",
            "--stack-trace-limit",
            "--dns-result-order",
            "--diagnostic-dir",
        ],
        letters_with_value: "rC",
        letters_with_code: "ep",
        endings: &[".js", ".mjs", ".cjs", ".ts", ".mts", ".cts"],
        ..NONE
    },
    // dash(1), bash(1), zsh(1), ksh(1)
    Runtime {
        names: &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"],
        with_value: &["--rcfile", "--init-file"],
        letters_with_value: "oO",
        letters_with_code: "cs",
        endings: &[".sh", ".bash", ".zsh", ".ksh"],
        ..NONE
    },
    // ruby(1)
    Runtime {
        names: &["ruby"],
        with_value: &["--encoding", "--external-encoding", "--internal-encoding"],
        letters_with_value: "CEIr",
        letters_with_rest: "0FKTWix",
        letters_with_code: "e",
        endings: &[".rb"],
        ..NONE
    },
    // perlrun(1)
    Runtime {
        names: &["perl"],
        letters_with_value: "I",
        letters_with_rest: "0CDFMilmx",
        letters_with_code: "eE",
        endings: &[".pl", ".psgi"],
        ..NONE
    },
    // php(1)
    Runtime {
        names: &["php"],
        with_value: &["--define", "--php-ini", "--docroot", "--server"],
        letters_with_value: "cdtzS",
        letters_with_code: "rBRFE",
        endings: &[".php", ".phar"],
        ..NONE
    },
];

/// Whether naming a process with this executable takes its arguments.
pub(crate) fn is_named_by_arguments(exe: &str) -> bool {
    runtime_of(base_name(exe)).is_some()
}

/// Names a process by its executable and its arguments, as `/proc/PID/cmdline` has them: each ends
/// with a NUL (proc(5)).
pub(crate) fn program_name(exe: &str, arguments: &[u8]) -> String {
    let exe = base_name(exe);
    let arguments: Vec<_> =
        arguments.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument)).collect();
    let (Some(runtime), Some((first, rest))) = (runtime_of(exe), arguments.split_first()) else {
        return exe.to_owned();
    };
    // A process may write anything over its arguments (setproctitle(3)): they count only if they
    // begin as those of this runtime do. A login shell's name begins with `-`.
    let name = base_name(first).trim_start_matches('-');
    if !runtime.has_name(name) {
        return exe.to_owned();
    }
    match runtime.find_target(rest.iter().map(AsRef::as_ref)) {
        Some(RunTarget::Script(script)) => format!("{name} {script}"),
        Some(RunTarget::Jar(jar)) => format!("{name} -jar {jar}"),
        Some(RunTarget::Module(module)) => format!("{name} -m {module}"),
        None => name.to_owned(),
    }
}

/// What a runtime runs.
enum RunTarget<'a> {
    /// A script's file, or a main class.
    Script(&'a str),
    /// A jar's file.
    Jar(&'a str),
    /// A module, by its name.
    Module(&'a str),
}

impl Runtime {
    /// Whether an executable of this name is this runtime: `python3.11`, but not `python-config`.
    fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|begin| {
            let version = name.strip_prefix(begin);
            version.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        })
    }

    /// Finds what is run; `None` if that is code, or cannot be told from the arguments.
    fn find_target<'a>(&self, mut arguments: impl Iterator<Item = &'a str>) -> Option<RunTarget<'a>> {
        let script =
            |path: &'a str| Some(base_name(path)).filter(|name| !name.is_empty()).map(RunTarget::Script);
        let mut follows_unknown = false;
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                return script(arguments.next()?);
            }
            if argument == "-jar" && self.has_words_after_one_dash {
                return Some(RunTarget::Jar(base_name(arguments.next()?)));
            }
            if self.module_options.contains(&argument) {
                return Some(RunTarget::Module(arguments.next()?));
            }
            let is_option = argument.len() > 1 && argument.starts_with(['-', '+']);
            if !is_option {
                let may_be_script =
                    !follows_unknown || self.endings.iter().any(|ending| argument.ends_with(ending));
                return if argument == "-" || !may_be_script { None } else { script(argument) };
            }
            follows_unknown = false;
            if self.with_value.contains(&argument) {
                arguments.next()?;
            } else if argument.starts_with("--") {
                follows_unknown = !argument.contains('=');
            } else if !self.has_words_after_one_dash {
                match self.end_of_letters(&argument[1..]) {
                    LettersEnd::Flags => {}
                    LettersEnd::Code => return None,
                    LettersEnd::Value => drop(arguments.next()?),
                    LettersEnd::Module("") => return Some(RunTarget::Module(arguments.next()?)),
                    LettersEnd::Module(module) => return Some(RunTarget::Module(module)),
                }
            }
        }
        None
    }

    /// Says what a group of options of one letter leads to.
    fn end_of_letters<'a>(&self, letters: &'a str) -> LettersEnd<'a> {
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            if self.letters_with_code.contains(letter) {
                return LettersEnd::Code;
            }
            if letter == 'm' && self.module_options.contains(&"-m") {
                return LettersEnd::Module(rest);
            }
            if self.letters_with_value.contains(letter) {
                return if rest.is_empty() { LettersEnd::Value } else { LettersEnd::Flags };
            }
            if self.letters_with_rest.contains(letter) {
                return LettersEnd::Flags;
            }
        }
        LettersEnd::Flags
    }
}

/// What a group of options of one letter leads to.
enum LettersEnd<'a> {
    /// To the next argument.
    Flags,
    /// The next argument is the value of the last one.
    Value,
    /// The value is code.
    Code,
    /// To a module: this one, or else the next argument.
    Module(&'a str),
}

fn runtime_of(name: &str) -> Option<&'static Runtime> {
    RUNTIMES.iter().find(|runtime| runtime.has_name(name))
}

/// The last part of a path, without what the kernel adds to the path of a file that is no more.
fn base_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(exe: &str, arguments: &str) -> String {
        let arguments: Vec<u8> =
            arguments.split(' ').flat_map(|one| [one.as_bytes(), b"\0"].concat()).collect();
        program_name(exe, &arguments)
    }

    #[test]
    fn an_interpreter_is_named_with_its_script() {
        for (exe, arguments, name) in [
            ("/usr/bin/python3.11", "python3 worker.py --password hunter2", "python3 worker.py"),
            ("/usr/bin/python3.11", "/usr/bin/python3 -u -W ignore /opt/app/worker.py", "python3 worker.py"),
            ("/usr/bin/python3.11", "python3.11 -m http.server 80", "python3.11 -m http.server"),
            ("/usr/bin/python3.11", "python -um gunicorn app:wsgi", "python -m gunicorn"),
            ("/usr/bin/python3.11", "python3 -Xdev -mpip install x", "python3 -m pip"),
            ("/usr/bin/python3.11 (deleted)", "python3 worker.py", "python3 worker.py"),
            (
                "/usr/local/bin/node",
                "node --max-old-space-size=4096 /srv/server.js --token t",
                "node server.js",
            ),
            ("/usr/bin/node", "node -r dotenv/config --inspect index.mjs", "node index.mjs"),
            ("/usr/bin/node", "node --max-old-space-size 4096 server.js", "node server.js"),
            ("/usr/bin/dash", "/bin/sh ./run.sh secret", "sh run.sh"),
            ("/usr/bin/bash", "bash -eu -o pipefail /opt/run arg", "bash run"),
            ("/usr/bin/bash", "bash -euo pipefail +x /opt/run.sh arg", "bash run.sh"),
            ("/usr/bin/bash", "-bash", "bash"),
            ("/bin/busybox", "sh /etc/init.d/rcS", "sh rcS"),
            ("/usr/bin/ruby3.1", "ruby -I lib -rbundler/setup bin/puma", "ruby puma"),
            ("/usr/bin/perl", "perl -w -Ilib -Mre app.pl", "perl app.pl"),
            ("/usr/bin/php8.2", "php -d memory_limit=1G artisan queue:work", "php artisan"),
        ] {
            assert_eq!(program(exe, arguments), name, "{exe}: {arguments}");
        }
    }

    #[test]
    fn java_is_named_with_its_jar_or_main_class() {
        let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
        for (arguments, name) in [
            ("java -Xmx4g -Dpassword=hunter2 -jar /opt/app/app.jar --port 80", "java -jar app.jar"),
            ("java -cp lib/a.jar:lib/b.jar com.example.Main secret", "java com.example.Main"),
            ("/usr/bin/java --add-opens java.base/java.lang=ALL-UNNAMED -classpath x Main", "java Main"),
            ("java --add-modules=ALL-SYSTEM -p mods -m app/com.example.Main", "java -m app/com.example.Main"),
            ("java @args Main", "java @args"),
            ("java -version", "java"),
        ] {
            assert_eq!(program(java, arguments), name, "{arguments}");
        }
    }

    #[test]
    fn code_and_values_are_not_named() {
        for (exe, arguments, name) in [
            ("/usr/bin/python3.11", "python3 -c print('hunter2')", "python3"),
            ("/usr/bin/python3.11", "python3 -", "python3"),
            ("/usr/bin/bash", "bash -lc secret", "bash"),
            ("/usr/bin/dash", "sh -c secret", "sh"),
            ("/usr/bin/node", "node -e secret", "node"),
            ("/usr/bin/node", "node --unknown-option hunter2 server.js", "node"),
            ("/usr/bin/perl", "perl -ne secret file", "perl"),
        ] {
            assert_eq!(program(exe, arguments), name, "{exe}: {arguments}");
        }
    }

    #[test]
    fn anything_else_is_named_by_its_executable() {
        for (exe, arguments, name) in [
            ("/usr/sbin/nginx", "nginx: worker process", "nginx"),
            ("/usr/bin/curl", "curl -u root:hunter2 http://x", "curl"),
            ("/usr/bin/python3.11", "gunicorn: worker [app]", "python3.11"),
            ("/usr/bin/python-config", "python3 worker.py", "python-config"),
            ("/usr/bin/java-wrapper", "java -jar x.jar", "java-wrapper"),
            ("/usr/bin/python3", "", "python3"),
        ] {
            assert_eq!(program(exe, arguments), name, "{exe}: {arguments}");
        }
        assert!(is_named_by_arguments("/usr/bin/python3.11 (deleted)"));
        assert!(!is_named_by_arguments("/usr/sbin/nginx") && !is_named_by_arguments("/usr/bin/pythonic"));
    }

    proptest! {
        #[test]
        fn any_arguments_give_a_name(
            at in 0..RUNTIMES.len(), bytes in proptest::collection::vec(any::<u8>(), 0..200),
            words in proptest::collection::vec("-[A-Za-z]{0,3}|--[a-z-]{1,9}(=x)?|[a-z./]{0,9}|[-+]", 0..8),
        ) {
            let exe = RUNTIMES[at].names[0];
            prop_assert!(!program_name(exe, &bytes).is_empty());
            let arguments = [&[exe.to_owned()], &words[..]].concat().join("\0");
            let name = program_name(exe, arguments.as_bytes());
            prop_assert!(name.starts_with(exe), "{}", name);
            // What is named was there, as it was or as the last part of it; the option in a group
            // of letters, maybe.
            prop_assert!(name.split(' ').all(|part| part == "-m" || arguments.contains(part)), "{}", name);
        }
    }
}
