//! Names a process as a person would: an interpreter by the script that it runs, a VM by its jar or
//! main class, anything else by its executable.
//!
//! No other argument is ever named: arguments hold secrets.

/// An interpreter or a VM: the names of its executables, and how it takes its arguments.
///
/// Where a group of options is in doubt, no script is named: a name that is missing is no harm, a
/// secret that is told is.
struct Runtime {
    /// How the names of its executables begin; a version may follow.
    names: &'static [&'static str],
    /// Whether an option of many letters begins with one dash, as Java's do, so that no option is a
    /// group of letters.
    has_words_after_one_dash: bool,
    /// Whether what follows `--` is for the script, which is read from stdin.
    reads_stdin_after_dashes: bool,
    /// Long options whose value is the next argument.
    with_value: &'static [&'static str],
    /// Long options without a value; one that ends with `-` stands for all that begin so.
    without_value: &'static [&'static str],
    /// Long options whose value is code.
    with_code: &'static [&'static str],
    /// Letters whose value is the rest of the group, or else the next argument.
    letters_with_value: &'static str,
    /// Letters whose value is the next argument, whatever follows in the group.
    letters_with_next: &'static str,
    /// Letters that, at the beginning of a group, have the rest of it for their value.
    letters_with_rest: &'static str,
    /// Letters whose value is code, or after which code is read from stdin: there is no script.
    letters_with_code: &'static str,
    /// The letter, or the option, whose value is the module to run.
    module_options: &'static [&'static str],
    /// Words before the script that say what to do with it.
    subcommands: &'static [&'static str],
    /// How the names of scripts end. What follows an option that is not known counts as a script only
    /// if its name ends like this.
    endings: &'static [&'static str],
}

/// The parts that a runtime does not have.
const NONE: Runtime = Runtime {
    names: &[],
    has_words_after_one_dash: false,
    reads_stdin_after_dashes: false,
    with_value: &[],
    without_value: &[],
    with_code: &[],
    letters_with_value: "",
    letters_with_next: "",
    letters_with_rest: "",
    letters_with_code: "",
    module_options: &[],
    subcommands: &[],
    endings: &[],
};

const SCRIPTS_OF_NODE: &[&str] = &[".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx", ".jsx"];

const RUNTIMES: [Runtime; 11] = [
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
        without_value: &["--enable-preview", "--show-version", "--dry-run", "--validate-modules"],
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
            "--experimental-default-type",
            "--experimental-sea-config",
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
        without_value: &[
            "--enable-",
            "--no-",
            "--experimental-",
            "--harmony-",
            "--inspect",
            "--inspect-brk",
            "--expose-gc",
            "--preserve-symlinks",
            "--preserve-symlinks-main",
            "--pending-deprecation",
            "--throw-deprecation",
            "--trace-warnings",
            "--trace-deprecation",
            "--trace-uncaught",
            "--abort-on-uncaught-exception",
            "--watch",
        ],
        with_code: &["--eval", "--print"],
        letters_with_value: "rC",
        letters_with_code: "ep",
        endings: SCRIPTS_OF_NODE,
        ..NONE
    },
    // dash(1), bash(1), zsh(1), ksh(1)
    Runtime {
        names: &["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"],
        with_value: &["--rcfile", "--init-file"],
        without_value: &["--login", "--posix", "--norc", "--noprofile", "--restricted", "--verbose"],
        letters_with_next: "oO",
        letters_with_code: "cs",
        endings: &[".sh", ".bash", ".zsh", ".ksh"],
        ..NONE
    },
    // ruby(1)
    Runtime {
        names: &["ruby"],
        with_value: &["--encoding", "--external-encoding", "--internal-encoding"],
        without_value: &["--disable-", "--enable-", "--jit", "--yjit", "--verbose"],
        letters_with_value: "CEIXr",
        letters_with_rest: "Fix",
        letters_with_code: "e",
        endings: &[".rb"],
        ..NONE
    },
    // perlrun(1)
    Runtime {
        names: &["perl"],
        letters_with_value: "I",
        letters_with_rest: "FMimx",
        letters_with_code: "eE",
        endings: &[".pl", ".psgi"],
        ..NONE
    },
    // php(1)
    Runtime {
        names: &["php"],
        reads_stdin_after_dashes: true,
        with_value: &["--define", "--php-ini", "--docroot", "--server"],
        with_code: &["--run", "--process-begin", "--process-code", "--process-end", "--process-file"],
        letters_with_value: "cdtzS",
        letters_with_code: "rBRFE",
        endings: &[".php", ".phar"],
        ..NONE
    },
    // dotnet --help
    Runtime {
        names: &["dotnet"],
        with_value: &[
            "--additionalprobingpath",
            "--depsfile",
            "--runtimeconfig",
            "--fx-version",
            "--roll-forward",
        ],
        subcommands: &["exec"],
        endings: &[".dll"],
        ..NONE
    },
    // deno run --help, bun --help
    Runtime {
        names: &["deno", "bun"],
        with_value: &["--config", "--import-map", "--env-file", "--cwd", "--preload"],
        without_value: &["--allow-", "--no-", "--unstable", "--unstable-", "--watch", "--hot"],
        with_code: &["--eval", "--print"],
        letters_with_value: "cr",
        letters_with_code: "ep",
        subcommands: &["run"],
        endings: SCRIPTS_OF_NODE,
        ..NONE
    },
    // lua(1), Rscript(1)
    Runtime {
        names: &["lua", "luajit", "Rscript"],
        without_value: &["--vanilla", "--no-", "--verbose"],
        letters_with_value: "l",
        letters_with_code: "e",
        endings: &[".lua", ".R", ".r"],
        ..NONE
    },
    // mono(1)
    Runtime { names: &["mono"], has_words_after_one_dash: true, endings: &[".exe", ".dll"], ..NONE },
];

/// Whether naming a process with this executable takes its arguments.
pub(crate) fn is_named_by_arguments(exe: &str) -> bool {
    runtime_of(base_name(exe)).is_some()
}

/// Names a process by its executable and its arguments, as `/proc/PID/cmdline` has them: each ends with
/// a NUL (proc(5)). `is_cut`: there are more of them.
///
/// Returns `None` if the name cannot be known.
pub(crate) fn program_name(exe: &str, arguments: &[u8], is_cut: bool) -> Option<String> {
    let exe = base_name(exe);
    let arguments: Vec<_> =
        arguments.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument)).collect();
    let (Some(runtime), Some((first, rest))) = (runtime_of(exe), arguments.split_first()) else {
        return Some(exe.to_owned());
    };
    // A process may write anything over its arguments (setproctitle(3)): they count only if they
    // begin as those of this runtime do. A login shell's name begins with `-`.
    let name = base_name(first).trim_start_matches('-');
    if !runtime.has_name(name) {
        return Some(exe.to_owned());
    }
    match runtime.find_target(rest.iter().map(AsRef::as_ref)) {
        Some(RunTarget::Script(script)) => Some(format!("{name} {script}")),
        Some(RunTarget::Jar(jar)) => Some(format!("{name} -jar {jar}")),
        Some(RunTarget::Module(module)) => Some(format!("{name} -m {module}")),
        None => (!is_cut).then(|| name.to_owned()),
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
                return if self.reads_stdin_after_dashes { None } else { script(arguments.next()?) };
            }
            if argument == "-jar" && self.has_words_after_one_dash {
                return Some(RunTarget::Jar(base_name(arguments.next()?)));
            }
            if self.module_options.contains(&argument) {
                return Some(RunTarget::Module(arguments.next()?));
            }
            let is_option = argument.len() > 1 && argument.starts_with(['-', '+']);
            if !is_option {
                if self.subcommands.contains(&argument) {
                    continue;
                }
                let may_be_script =
                    !follows_unknown || self.endings.iter().any(|ending| argument.ends_with(ending));
                return if argument == "-" || !may_be_script { None } else { script(argument) };
            }
            follows_unknown = false;
            let (option, value) =
                argument.split_once('=').map_or((argument, None), |(option, value)| (option, Some(value)));
            if self.with_code.contains(&option) {
                return None;
            }
            if self.with_value.contains(&argument) {
                arguments.next()?;
            } else if argument.starts_with("--") {
                let is_it =
                    |known: &str| known == option || known.ends_with('-') && option.starts_with(known);
                follows_unknown = value.is_none() && !self.without_value.iter().any(|known| is_it(known));
            } else if !self.has_words_after_one_dash {
                match self.end_of_letters(&argument[1..]) {
                    LettersEnd::Next(values) => (0..values).try_for_each(|_| arguments.next().map(drop))?,
                    LettersEnd::Code => return None,
                    LettersEnd::Module("") => return Some(RunTarget::Module(arguments.next()?)),
                    LettersEnd::Module(module) => return Some(RunTarget::Module(module)),
                }
            }
        }
        None
    }

    /// Says what a group of options of one letter leads to.
    fn end_of_letters<'a>(&self, letters: &'a str) -> LettersEnd<'a> {
        let mut nexts = 0;
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            if at == 0 && self.letters_with_rest.contains(letter) {
                return LettersEnd::Next(0);
            }
            if letter == 'm' && self.module_options.contains(&"-m") {
                return LettersEnd::Module(rest);
            }
            if self.letters_with_value.contains(letter) {
                return LettersEnd::Next(usize::from(rest.is_empty()));
            }
            // Whatever stands before it: a number, or the value of another letter.
            if self.letters_with_code.contains(letter) {
                return LettersEnd::Code;
            }
            nexts += usize::from(self.letters_with_next.contains(letter));
        }
        LettersEnd::Next(nexts)
    }
}

/// What a group of options of one letter leads to.
enum LettersEnd<'a> {
    /// So many arguments that follow are values.
    Next(usize),
    /// The value is code.
    Code,
    /// A module: this one, or else the next argument.
    Module(&'a str),
}

fn runtime_of(name: &str) -> Option<&'static Runtime> {
    RUNTIMES.iter().find(|runtime| runtime.has_name(name))
}

/// The last part of a path, without what the kernel adds to the path of a file that is no more.
fn base_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path).trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(exe: &str, arguments: &str) -> String {
        let arguments: Vec<u8> =
            arguments.split(' ').flat_map(|one| [one.as_bytes(), b"\0"].concat()).collect();
        program_name(exe, &arguments, false).expect("all arguments are there")
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
            ("/usr/bin/bash", "bash -oe pipefail run.sh", "bash run.sh"),
            ("/usr/bin/bash", "bash --login /opt/run", "bash run"),
            ("/usr/bin/python3.11", "python3 pkg/", "python3 pkg"),
            ("/usr/bin/node", "node --enable-source-maps bin/www", "node www"),
            ("/usr/bin/dotnet", "dotnet exec --depsfile x.json /app/app.dll --key hunter2", "dotnet app.dll"),
            ("/usr/bin/deno", "deno run --allow-net main.ts hunter2", "deno main.ts"),
            ("/usr/bin/ruby3.1", "ruby -X /srv app.rb", "ruby app.rb"),
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
            ("/usr/bin/node", "node --eval=code hunter2", "node"),
            ("/usr/bin/node", "node --eval code//hunter2.js", "node"),
            ("/usr/bin/node", "node --print=code hunter2", "node"),
            ("/usr/bin/perl", "perl -ne secret file", "perl"),
            ("/usr/bin/perl", "perl -le secret", "perl"),
            ("/usr/bin/perl", "perl -lE secret", "perl"),
            ("/usr/bin/perl", "perl -0777e secret", "perl"),
            ("/usr/bin/perl", "perl -0x1Fe secret", "perl"),
            ("/usr/bin/perl", "perl -CSDe secret", "perl"),
            ("/usr/bin/ruby3.1", "ruby -W0e secret", "ruby"),
            ("/usr/bin/ruby3.1", "ruby -0777ne secret", "ruby"),
            ("/usr/bin/php8.2", "php -- secret", "php"),
            ("/usr/bin/php8.2", "php -r secret", "php"),
            ("/usr/bin/bash", "bash -ec secret", "bash"),
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
        assert_eq!(program_name("/usr/bin/python3", b"python3\0-u\0", true), None, "the script may follow");
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
            prop_assert!(program_name(exe, &bytes, false).is_some_and(|name| !name.is_empty()));
            let arguments = [&[exe.to_owned()], &words[..]].concat().join("\0");
            let name = program_name(exe, arguments.as_bytes(), false).expect("all arguments are there");
            prop_assert!(name.starts_with(exe), "{}", name);
            // What is named was there, as it was or as the last part of it; the option in a group
            // of letters, maybe.
            prop_assert!(name.split(' ').all(|part| part == "-m" || arguments.contains(part)), "{}", name);
        }
    }
}
