"""Reads lines of the audit log with parsers and schemas that nobody of Trailmesh wrote.

Task: {"format": "ocsf" | "cef" | "syslog", "lines": [...]}. Answer: a list of {"problems": [...], "value": {...}}, one for each line.
"""

import json
import re
import sys


def ocsf():
    """The JSON Schema of the event's class, made from the export of schema.ocsf.io that the package carries, unknown fields refused."""
    import jsonschema_rs
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    schemas, validators = {}, {}

    def validator(version, class_uid):
        if version not in schemas:
            schemas[version] = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=version))
        if (version, class_uid) not in validators:
            schema = schemas[version]
            text = schema.get_class_schema(schema.lookup_class_name_from_uid(class_uid=class_uid))
            validators[version, class_uid] = jsonschema_rs.Draft202012Validator(text)
        return validators[version, class_uid]

    def read(line):
        value = json.loads(line)
        # The version that the event names, and later ones, which a receiver may have.
        versions = sorted({value["metadata"]["version"], "1.7.0", "1.8.0"})
        problems = [
            f"{version}: {error.message} at {list(error.instance_path)}"
            for version in versions
            for error in validator(version, value["class_uid"]).iter_errors(value)
        ]
        if value["type_uid"] != value["class_uid"] * 100 + value["activity_id"]:
            problems.append("type_uid is not of its class and activity")
        return problems, value

    return read


def cef():
    """pycef gives values with their escapes, which are taken away here."""
    import pycef

    def read(line):
        value = pycef.parse(line)
        if value is None:
            return ["no CEF"], None
        return [], {key: re.sub(r"\\(.)", r"\1", text) for key, text in value.items()}

    return read


def syslog():
    """syslog-rfc5424-parser."""
    from syslog_rfc5424_parser import ParseError, SyslogMessage

    def read(line):
        try:
            value = SyslogMessage.parse(line).as_dict()
        except ParseError as error:
            return [str(error)], None
        return [], value

    return read


def main():
    task = json.load(sys.stdin)
    read = {"ocsf": ocsf, "cef": cef, "syslog": syslog}[task["format"]]()
    answers = []
    for line in task["lines"]:
        problems, value = read(line)
        answers.append({"problems": problems, "value": value})
    json.dump(answers, sys.stdout)


main()
