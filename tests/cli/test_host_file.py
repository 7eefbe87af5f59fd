"""Files of hosts: what is read, and that every mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.host_file import HostRow, read_hosts
from pkengine.keys import SshPublicKey

KEY = SshPublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
)
OTHER = "SHA256:irHeg88RepKvs+ZpOgfV1WRlhQDwlLdkI+71yGHIzKE"


class HostFileTestCase(SynchronousTestCase):
    ending = ".csv"

    def file(self, content: str | bytes) -> Path:
        path = Path(self.mktemp()).with_suffix(self.ending)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def rows(self, content: str | bytes) -> list[HostRow]:
        return read_hosts(str(self.file(content)))

    def mistakes(self, content: str | bytes) -> list[str]:
        """Give what is wrong, each as LINE: SENTENCE."""
        path = self.file(content)
        with self.assertRaises(CommandFailed) as caught:
            read_hosts(str(path))
        self.assertEqual(caught.exception.status, ExitStatus.USAGE)
        lines = str(caught.exception).splitlines()
        return [line.removeprefix(f"{path}:") for line in lines if line.startswith(f"{path}:")]


class CsvTests(HostFileTestCase):
    def test_every_column_is_read_and_empty_cells_are_left_to_the_defaults(self) -> None:
        full, bare = self.rows(
            "name,address,ssh_port,ssh_user,fingerprint,public_key,port,cluster,comment,"
            "description\n"
            f'web1,192.0.2.1,2222,admin,{KEY.fingerprint()},{KEY},54322,Default,"a, b",c\n'
            "web2,WEB2.Example.,,,,,,,,\n"
        )
        self.assertEqual(
            full,
            HostRow(
                line=2,
                name="web1",
                address="192.0.2.1",
                ssh_port=2222,
                ssh_user="admin",
                fingerprint=KEY.fingerprint(),
                public_key=KEY,
                port=54322,
                cluster="Default",
                comment="a, b",
                description="c",
            ),
        )
        self.assertEqual(bare, HostRow(line=3, name="web2", address="web2.example"))

    def test_lines_count_through_blanks_comments_and_cells_of_several_lines(self) -> None:
        rows = self.rows(
            "# our hosts\n\nName,Address,Comment\r\n\r\n"
            'a,192.0.2.1,"one\ntwo"\n#b,192.0.2.2,\nc,192.0.2.3\n'
        )
        self.assertEqual([(row.line, row.name) for row in rows], [(5, "a"), (8, "c")])

    def test_a_mark_of_the_byte_order_is_no_part_of_the_first_name(self) -> None:
        self.assertEqual(len(self.rows("\ufeffname,address\na,192.0.2.1\n")), 1)

    def test_all_mistakes_are_told_at_once_each_with_its_line(self) -> None:
        found = self.mistakes(
            "name,address,ssh_port,fingerprint,public_key\n"
            "a b,192.0.2.1,,,\n"
            "b,not an address,,,\n"
            "c,192.0.2.3,70000,,\n"
            "d,192.0.2.4,,SHA256:short,\n"
            f"e,192.0.2.5,,{OTHER},{KEY}\n"
            ",192.0.2.6,,,\n"
            "g,,,,\n"
            "h,192.0.2.8,,,,surplus\n"
        )
        for line, (start, part) in enumerate(
            (
                ("2: ", "'a b'"),
                ("3: ", "'not an address'"),
                ("4: ", "'70000' is no port"),
                ("5: ", "not an SSH fingerprint"),
                ("6: ", "is not that of the SSH public key"),
                ("7: ", "no name"),
                ("8: ", "no address"),
                ("9: ", "at most 5 cells"),
            )
        ):
            self.assertTrue(found[line].startswith(start), found[line])
            self.assertIn(part, found[line])

    def test_a_name_or_an_address_that_is_there_twice_names_both_lines(self) -> None:
        found = self.mistakes(
            "name,address\na,h1.example\nb,192.0.2.2\na,192.0.2.3\nd,H1.example.\n"
        )
        self.assertEqual(
            found,
            [
                "4: The name a is in line 2 already.",
                "5: The address h1.example is in line 2 already.",
            ],
        )

    def test_a_password_in_the_file_is_refused_and_not_repeated(self) -> None:
        for name in ("password", "root_password", "ssh_password"):
            (found,) = self.mistakes(f"name,address,{name}\na,192.0.2.1,hunter2\n")
            self.assertTrue(found.startswith("1: A password does not belong"), found)
            self.assertNotIn("hunter2", found)

    def test_columns_that_are_unknown_missing_or_there_twice_are_named(self) -> None:
        for head, part in (
            ("name,address,colour", "Unknown column 'colour'"),
            ("name,ip", "Unknown column 'ip'"),
            ("name", "no column 'address'"),
            ("name;address", "Unknown column 'name;address'"),
            ("name,address,name", "'name' is there twice"),
        ):
            self.assertIn(part, self.mistakes(f"{head}\na,b\n")[0])

    def test_what_is_no_csv_is_said_with_its_line(self) -> None:
        (found,) = self.mistakes('name,address\na,192.0.2.1\nb,"192.0.2.2\n')
        self.assertTrue(found.startswith("3: This is not CSV"), found)
        self.assertEqual(self.mistakes(""), ["1: There is no host in the file."])
        self.assertTrue(self.mistakes(b"name,address\n\xff,b\n")[0].startswith("2: "))

    def test_of_many_mistakes_some_are_shown_and_the_rest_counted(self) -> None:
        path = self.file("name,address\n" + "!,192.0.2.1\n" * 100)
        with self.assertRaises(CommandFailed) as caught:
            read_hosts(str(path))
        self.assertEqual(str(caught.exception).count(f"{path}:"), 20)
        self.assertIn("… and 80 more.", str(caught.exception))

    def test_a_file_that_is_missing_or_of_another_kind_is_one_sentence(self) -> None:
        for path in ("/nonexistent/hosts.csv", "hosts.xlsx"):
            with self.assertRaises(CommandFailed) as caught:
                read_hosts(path)
            self.assertIn(path, str(caught.exception))


class YamlTests(HostFileTestCase):
    ending = ".yaml"

    def test_a_list_of_hosts_is_read_with_the_texts_as_they_are_written(self) -> None:
        content = (
            "- name: no\n"
            "  address: 192.0.2.1\n"
            f"  fingerprint: {KEY.fingerprint('MD5')}\n"
            "  ssh_port: 2222\n"
            "  comment:\n"
            "- {name: 1e3, address: h1.example}\n"
        )
        first, second = self.rows(content)
        self.assertEqual((first.line, first.name, first.ssh_port), (1, "no", 2222))
        self.assertEqual(first.fingerprint, KEY.fingerprint("MD5"))
        self.assertIsNone(first.comment)
        self.assertEqual((second.line, second.name), (6, "1e3"))
        indented = "hosts:\n" + "".join(f"  {line}\n" for line in content.splitlines())
        self.assertEqual([row.name for row in self.rows(indented)], ["no", "1e3"])

    def test_mistakes_are_told_with_their_lines(self) -> None:
        for content, start in (
            ("- name: a\n  address: 192.0.2.1\n  colour: red\n", "3: Unknown key 'colour'"),
            ("- name: a\n  password: hunter2\n", "2: A password does not belong"),
            ("- name: a\n  name: b\n", "2: The key 'name' is there twice."),
            ("- name: a\n  address: [1, 2]\n", "2: Expected one text"),
            ("- name: a\n- b\n", "2: Expected the keys of a host"),
            ("name: a\n", "1: Expected a list"),
            ("- name: a\n  address: 'b\n", "3: This is not YAML"),
            ("- !!python/object/apply:os.system [x]\n", "1: Expected the keys of a host"),
            ('- name: a\n  address: "\\x00"\n', "1: "),
            ("", "1: There is no host in the file."),
            ("[" * 5000, "1: This is not YAML"),
        ):
            found = self.mistakes(content)
            self.assertTrue(found[-1].startswith(start), (content[:60], found))

    def test_one_host_that_is_wrong_does_not_hide_the_others(self) -> None:
        found = self.mistakes(
            "- {name: a b, address: 192.0.2.1}\n- {name: c, address: 192.0.2.2, port: x}\n"
        )
        self.assertEqual([line[:2] for line in found], ["1:", "2:"])


class AnyTextTests(HostFileTestCase):
    @settings(max_examples=200, deadline=None)
    @given(
        st.text(alphabet=st.sampled_from("name,address\n\"'#:-[]{}&*!|> \t1\x00é"), max_size=60)
    )
    def test_any_text_is_read_or_refused_in_sentences(self, text: str) -> None:
        for ending in (".csv", ".yaml"):
            path = Path(self.mktemp()).with_suffix(ending)
            path.write_text(text, "utf-8")
            try:
                rows = read_hosts(str(path))
            except CommandFailed as refused:
                self.assertIn(str(path), str(refused))
            else:
                self.assertNotEqual(rows, [])
