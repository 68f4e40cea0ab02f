//! Who a new cluster lets in: the text of its `pg_hba.conf` and of its `pg_ident.conf`. Pure.
//!
//! On the machine itself the operating system says who somebody is (`peer`), and a map says which roles that user may be:
//! the server's user and root any role, nobody else any. `trust` for everybody, which docker-library's image has and
//! pgbox had, was refused: it makes every local user a superuser, who may run programs as the server's user.

use super::MajorVersion;

/// The name of the map in `pg_ident.conf`.
pub const MAP: &str = "pgbox";

/// The first version whose maps know `all`, for every role (hba.c, `check_ident_usermap()`).
const FIRST_WITH_ALL: MajorVersion = MajorVersion(16);

/// Who a new cluster is to let in.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// The version of the cluster.
    pub version: MajorVersion,
    /// The superuser whom initdb made.
    pub superuser: &'a str,
    /// Whether hosts may log in as the superuser, if they can prove it.
    pub superuser_from_hosts: bool,
    /// The role that applications connect as.
    pub application_role: &'a str,
    /// Whether every user of the machine is let in as that role.
    pub trusts_local_users: bool,
    /// The users of the operating system who may be any role.
    pub system_users: Vec<String>,
    /// How hosts are let in.
    pub host_method: &'a str,
}

impl Access<'_> {
    /// Returns `pg_hba.conf`, from the one that initdb wrote.
    ///
    /// The first line that fits a connection counts (hba.c, `check_hba()`), so that the special ones come first.
    pub fn rules(&self, of_initdb: &str) -> String {
        let mut lines: Vec<String> = of_initdb.lines().map(with_map).collect();
        let is_rule = |line: &String| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let first = lines.iter().position(is_rule).unwrap_or(lines.len());
        lines.splice(first..first, self.special_rules());
        lines.push(String::new());
        lines.push("# Added by pgbox: whoever reaches an address that the server listens on.".to_owned());
        lines.push(format!("host all all all {}", self.host_method));
        lines.join("\n") + "\n"
    }

    fn special_rules(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.superuser_from_hosts {
            lines.push(
                "# Added by pgbox: the superuser has no password, and comes in by the socket alone."
                    .to_owned(),
            );
            lines.push(format!("host all,replication {} all reject", quoted(self.superuser)));
        }
        if self.trusts_local_users && self.application_role != self.superuser {
            lines.push(
                "# Added by pgbox: LOCAL_ACCESS=trust lets every user of this machine be this role."
                    .to_owned(),
            );
            lines.push(format!("local all {} trust", quoted(self.application_role)));
        }
        lines
    }

    /// Returns what is appended to `pg_ident.conf`.
    pub fn map(&self) -> String {
        let mut lines = vec![
            String::new(),
            "# Added by pgbox: which roles a user of this machine may be by the socket. Nobody else is let in there."
                .to_owned(),
        ];
        lines.extend(self.map_lines());
        lines.join("\n") + "\n"
    }

    /// Returns the lines of the map itself.
    pub fn map_lines(&self) -> impl Iterator<Item = String> {
        let roles = self.roles();
        self.system_users
            .iter()
            .flat_map(move |user| roles.iter().map(|role| map_line(user, role)).collect::<Vec<_>>())
    }

    /// Says whether a `pg_hba.conf` uses the map.
    pub fn is_by_map(rules: &str) -> bool {
        let uses_map =
            |line: &str| !line.trim_start().starts_with('#') && line.contains(&format!("map={MAP}"));
        rules.lines().any(uses_map)
    }

    /// Returns what `pg_ident.conf` lacks for the server's user, the first of [`Access::system_users`], to be the superuser and
    /// the roles that the map gives to others; the whole map where there is none. `None` where nothing is lacking, or where
    /// `pg_hba.conf` does not use the map.
    ///
    /// A cluster may be restored to where the server's user has another name, and its superuser may be renamed.
    pub fn missing_in_map(&self, rules: &str, map: &str) -> Option<String> {
        if !Self::is_by_map(rules) {
            return None;
        }
        let entries: Vec<Entry> = map.lines().filter_map(Entry::parse).collect();
        if entries.is_empty() {
            return Some(self.map());
        }
        let is_missing = |(user, role): &(&str, String)| {
            !entries.iter().any(|entry| entry.is_of(user) && (entry.role == role || entry.role == "all"))
        };
        let missing = self.wanted_entries(&entries).into_iter().filter(is_missing);
        let lines: String = missing.map(|(user, role)| map_line(user, &role) + "\n").collect();
        let begin = if map.ends_with('\n') { "" } else { "\n" };
        (!lines.is_empty()).then(|| format!("{begin}{lines}"))
    }

    /// Returns a map in which each line with too few fields is a comment, and the numbers of these lines. For one of them the
    /// server takes nothing of the whole file (hba.c, `parse_ident_line()` and `load_ident()`).
    pub fn without_incomplete_lines(map: &str) -> (String, Vec<usize>) {
        let (mut text, mut found) = (String::with_capacity(map.len()), Vec::new());
        let mut is_continued = false;
        for (index, line) in map.split_inclusive('\n').enumerate() {
            let continues = line.trim_end_matches(['\n', '\r']).ends_with('\\');
            if !is_continued && !continues && is_incomplete(line) {
                found.push(index + 1);
                text.push_str("# ");
            }
            text.push_str(line);
            is_continued = continues;
        }
        (text, found)
    }

    /// What is to be in a map, by user and role. Whom a person took out of it is not put back.
    fn wanted_entries(&self, present: &[Entry]) -> Vec<(&str, String)> {
        let superuser =
            if self.version >= FIRST_WITH_ALL { "all".to_owned() } else { quoted(self.superuser) };
        let mut roles: Vec<String> = present.iter().map(|entry| entry.role.to_owned()).collect();
        roles.push(superuser.clone());
        roles.sort_unstable();
        roles.dedup();
        let mut users = self.system_users.iter().map(String::as_str);
        let of_server =
            users.next().into_iter().flat_map(|user| roles.iter().map(move |role| (user, role.clone())));
        let mut wanted: Vec<(&str, String)> = of_server.collect();
        let kept = users.filter(|user| present.iter().any(|entry| entry.is_of(user)));
        wanted.extend(kept.map(|user| (user, superuser.clone())));
        wanted
    }

    /// The roles that the map names, as it names them. Before 16 there is no word for all of them.
    fn roles(&self) -> Vec<String> {
        if self.version >= FIRST_WITH_ALL {
            return vec!["all".to_owned()];
        }
        let mut roles = vec![quoted(self.superuser), quoted(self.application_role)];
        roles.dedup();
        roles
    }
}

/// A line of the map, as it is written.
struct Entry<'a> {
    user: &'a str,
    role: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let rest = line.trim().strip_prefix(MAP)?.strip_prefix([' ', '\t'])?.trim_start();
        let (user, role) = split_token(rest)?;
        Some(Self { user, role: split_token(role).map_or(role, |(role, _)| role) })
    }

    fn is_of(&self, user: &str) -> bool {
        self.user == user || self.user == quoted(user)
    }
}

/// Splits a text behind its first word, which may be in quotes.
fn split_token(text: &str) -> Option<(&str, &str)> {
    let mut is_quoted = false;
    let end = text.find(|letter: char| {
        is_quoted ^= letter == '"';
        letter.is_whitespace() && !is_quoted
    })?;
    let (token, rest) = text.split_at(end);
    Some((token, rest.trim_start()))
}

/// Whether a line of a map has a field, but not the three that it needs. One that takes in another file has fewer.
fn is_incomplete(line: &str) -> bool {
    let mut is_quoted = false;
    let code = line.find(|letter: char| {
        is_quoted ^= letter == '"';
        letter == '#' && !is_quoted
    });
    let code = code.map_or(line, |end| line.get(..end).unwrap_or(line)).trim();
    let takes_in_another = code.starts_with('@') || code.starts_with("include");
    let fields = std::iter::successors(Some(("", code)), |(_, rest)| split_token(rest).or(Some((rest, ""))))
        .skip(1)
        .take_while(|(field, _)| !field.is_empty())
        .count();
    !takes_in_another && (1..3).contains(&fields)
}

fn map_line(user: &str, role: &str) -> String {
    format!("{MAP} {} {role}", quoted(user))
}

/// A name as both files take it: nothing in it has a meaning of its own then (hba.c, `next_token()`).
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A line of initdb's, with the map where it asks the operating system.
fn with_map(line: &str) -> String {
    let is_by_peer = line.starts_with("local") && line.split_whitespace().last() == Some("peer");
    if is_by_peer { format!("{} map={MAP}", line.trim_end()) } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const OF_INITDB: &str = "# local DATABASE USER METHOD peer\n\nlocal   all   all   peer\nhost all all ::1/128 scram-sha-256\n\
                             local   replication   all   peer\n";

    fn access(version: u32) -> Access<'static> {
        Access {
            version: MajorVersion(version),
            superuser: "the \"boss\"",
            superuser_from_hosts: false,
            application_role: "dbuser",
            trusts_local_users: false,
            system_users: vec!["postgres".to_owned(), "root".to_owned()],
            host_method: "scram-sha-256",
        }
    }

    fn rules(access: &Access) -> Vec<String> {
        let text = access.rules(OF_INITDB);
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn hosts_are_refused_as_the_superuser_before_any_other_line_counts() {
        assert_eq!(
            rules(&access(15)),
            [
                "host all,replication \"the \"\"boss\"\"\" all reject",
                "local all all peer map=pgbox",
                "host all all ::1/128 scram-sha-256",
                "local replication all peer map=pgbox",
                "host all all all scram-sha-256",
            ]
        );
        let with_password = Access { superuser_from_hosts: true, ..access(15) };
        assert!(rules(&with_password).iter().all(|line| !line.ends_with("reject")));
    }

    #[test]
    fn every_local_user_is_trusted_as_the_application_role_alone_and_never_as_the_superuser() {
        let trusting = Access { trusts_local_users: true, ..access(15) };
        let trusted: Vec<String> =
            rules(&trusting).into_iter().filter(|line| line.ends_with("trust")).collect();
        assert_eq!(trusted, ["local all \"dbuser\" trust"]);

        let same = Access { application_role: "the \"boss\"", ..trusting };
        assert!(rules(&same).iter().all(|line| !line.ends_with("trust")));
    }

    #[test]
    fn the_map_names_every_role_at_once_where_the_version_can() {
        assert!(access(16).map().ends_with("pgbox \"postgres\" all\npgbox \"root\" all\n"));
        let before = access(15).map();
        assert_eq!(before.lines().filter(|line| line.starts_with(MAP)).count(), 4);
        assert!(before.contains("pgbox \"root\" \"dbuser\"\n"), "{before}");
    }

    #[test]
    fn a_server_user_whom_the_map_does_not_know_gets_the_roles_of_the_others() {
        let rules = access(15).rules(OF_INITDB);
        let map = access(15).map();
        let elsewhere = Access { system_users: vec!["vscode".to_owned(), "root".to_owned()], ..access(15) };

        let missing = elsewhere.missing_in_map(&rules, &map).unwrap();

        assert_eq!(missing, "pgbox \"vscode\" \"dbuser\"\npgbox \"vscode\" \"the \"\"boss\"\"\"\n");
        assert_eq!(access(15).missing_in_map(&rules, &map), None);
        assert_eq!(elsewhere.missing_in_map(&rules, &format!("{map}{missing}")), None);
        assert_eq!(elsewhere.missing_in_map("local all all peer\n# map=pgbox", &map), None);
        assert_eq!(elsewhere.missing_in_map(&rules, "# pgbox nobody all\n"), Some(elsewhere.map()));
        let later = Access { version: MajorVersion(16), ..elsewhere.clone() };
        assert_eq!(later.missing_in_map(&rules, "pgbox root all").unwrap(), "\npgbox \"vscode\" all\n");
    }

    #[rstest]
    #[case::whole("pgbox root all\n", "pgbox root all\n", &[])]
    #[case::of_comments("# a\n\n  # b c", "# a\n\n  # b c", &[])]
    #[case::without_an_end("\"\n", "# \"\n", &[1])]
    #[case::too_short("pgbox root all\nmy map\n", "pgbox root all\n# my map\n", &[2])]
    #[case::short_before_a_comment("my map # of mine", "# my map # of mine", &[1])]
    #[case::with_blanks_in_quotes("m \"a b\" \"c # d\"", "m \"a b\" \"c # d\"", &[])]
    #[case::another_file("include_if_exists more.conf", "include_if_exists more.conf", &[])]
    #[case::continued("my map \\\n role\n", "my map \\\n role\n", &[])]
    fn a_line_for_which_the_server_takes_nothing_of_the_map_becomes_a_comment(
        #[case] map: &str,
        #[case] expected: &str,
        #[case] lines: &[usize],
    ) {
        assert_eq!(Access::without_incomplete_lines(map), (expected.to_owned(), lines.to_vec()));
    }

    #[test]
    fn a_superuser_of_another_name_gets_into_the_map() {
        let (rules, map) = (access(15).rules(OF_INITDB), access(15).map());
        let renamed = Access { superuser: "chief", ..access(15) };

        let missing = renamed.missing_in_map(&rules, &map).unwrap();

        assert_eq!(missing, "pgbox \"postgres\" \"chief\"\npgbox \"root\" \"chief\"\n");
        let without_root = map.replace("root", "someone");
        let missing = renamed.missing_in_map(&rules, &without_root).unwrap();
        assert_eq!(missing, "pgbox \"postgres\" \"chief\"\n");
    }
}
