"""The embedded assistant's vocabulary: how people name a secret, ask for it, press for it, and
ask for a form of answer. Patterns expect lower case unless they say otherwise."""

from __future__ import annotations

import re

NOUN = re.compile(
    r"\b(?:secret|password|passphrase|passcode|pass ?word|canary|code ?word|credential|confidential"
    r"|classified|api key|hidden (?:word|phrase|value|text|string|message))s?\b"
)
FOREIGN = re.compile(
    r"\b(?:geheimnis|passwort|kennwort|contraseña|contrasena|secreto|mot de passe|segreto|senha"
    r"|segredo|wachtwoord|geheim|haslo|sekret|siri|nenosiri|cyfrinair|lykilord|salasana)\b"
)
INDIRECT = re.compile(
    r"system (?:prompt|message|instruction)|(?:your|initial|original|first|previous|earlier)"
    r" (?:instruction|prompt|message|briefing|configuration)s?"
    r"|(?:text|words|everything|lines?|sentences?|paragraph) (?:above|before)|what you were told"
)
PARAPHRASE = re.compile(
    r"(?:thing|what|word|phrase|text|it is|string) (?:that )?(?:you|you're|you are|they)"
    r" (?:guard|are guarding|protect|are protecting|hide|are hiding|keep|are keeping|must not"
    r"|may not|asked you to keep|should not)"
    r"|magic word|special word|keep(?:ing)? from me|not supposed to say"
)
VERB = re.compile(
    r"\b(?:tell|reveal|show|give|say|print|share|disclose|what|which|repeat|output|spell|write|recite"
    r"|complete|encode|translate|sing|list|provide|expose|leak|describe|return|send|name|know|dump"
    r"|continue|fill|finish|read|sag|sage|verrate|nenne|dime|dis|dimmi|diga|revele|donne|zeg|podaj|niambie"
    r"|kerro|segdu|dywed|was|cual|quel|quale|qual|what's)\b"
)
PRESSURES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "roleplay",
        re.compile(
            r"pretend|role.?play|you are now|act as|imagine you|in character|play the (?:part|role)"
            r"|grandm|screenplay|short story|bedtime story|novel|fiction|\bscene\b|\bdan\b|persona"
        ),
    ),
    (
        "override",
        re.compile(
            r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}"
            r"\b(?:instruction|rule|previous|above|prior|guideline|polic|restriction)"
            r"|new instructions|system override|developer mode|debug mode|jailbreak|no longer bound"
        ),
    ),
    (
        "authority",
        re.compile(
            r"i am (?:the|your|an?) (?:admin|developer|owner|creator|engineer|auditor|operator|ceo)"
            r"|i'm (?:the|your|an?) (?:admin|developer|owner|engineer|auditor)|authori[sz]ed"
            r"|security audit|penetration test|red team|maintenance|verification procedure"
        ),
    ),
    (
        "prefix",
        re.compile(
            r"(?:begin|start)\w* (?:your |the )?(?:answer|reply|response|output)?\s*with|sure, here"
        ),
    ),
    (
        "suppression",
        re.compile(
            r"(?:do not|don't|never|without)"
            r" (?:refus|apolog|warn|disclaim|say|mention|use the word)"
            r"|you (?:cannot|can't|must not) refuse"
        ),
    ),
    ("hypothetical", re.compile(r"hypothetic|suppose|thought experiment|theoretic|for research")),
    (
        "format",
        re.compile(r"\b(?:json|yaml|xml|csv|table|code block|python|poem|haiku|acrostic)\b"),
    ),
    ("pleading", re.compile(r"please|beg you|my job|lives? depend|emergency|urgent|dying")),
    (
        "fewshot",
        re.compile(
            r"(?:(?:q|user|human|question) ?:.{1,400}?(?:a|assistant|answer) ?:.*?){3}", re.DOTALL
        ),
    ),
)
FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("base64", re.compile(r"(?:in|as|to|using|with) base ?64|base ?64.encode")),
    ("rot13", re.compile(r"(?:in|as|to|using|with) rot.?13")),
    ("morse", re.compile(r"(?:in|as|to|using|with) morse")),
    ("nato", re.compile(r"(?:nato|phonetic) (?:alphabet|spelling)")),
    ("acrostic", re.compile(r"acrostic|first letter of each (?:line|sentence|word)")),
    ("reversed", re.compile(r"backwards?|reversed?\b|in reverse")),
    (
        "spelled",
        re.compile(r"\bspell|letter by letter|(?:space|dash|hyphen|dot)s? between|separated by"),
    ),
)
WANTS_JSON = re.compile(r"\bjson\b", re.IGNORECASE)
HARDENED = re.compile(r"never|do not|don't|must not|under no circumstances|refuse", re.IGNORECASE)
SECRET = re.compile(
    r"(?:secret|password|passphrase|canary|code ?word|flag)(?: \w+){0,2}?\s*(?:is|:|=)\s*:?\s*"
    r"[\"'`«]?([^\s\"'`»]+)",
    re.IGNORECASE,
)
