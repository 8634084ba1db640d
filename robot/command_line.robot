*** Settings ***
Documentation       audit-buffer, the command line, as a user meets it.
Resource            resources/audit.resource
Test Setup          Start Afresh
Test Teardown       Clear Away


*** Test Cases ***
Help Names The Commands
    ${ended}=    Run Command Line    --help
    Should End Well    ${ended}
    FOR    ${command}    IN    demo    replay    tail    bench
        Should Contain    ${ended.stdout}    ${command}
    END

The Version Is That Of The Wheel
    ${ended}=    Run Command Line    --version
    Should End Well    ${ended}
    ${installed}=    Run Python    import importlib.metadata as m; print(m.version("audit-buffer"))
    Should Contain    ${ended.stdout}    ${installed.stdout.strip()}

The Demo Shows Both Ways
    ${ended}=    Run Command Line    demo    --events=200
    Should End Well    ${ended}
    FOR    ${word}    IN    synchronous    AuditBuffer    p50    p99
        Should Contain    ${ended.stdout}    ${word}
    END

A Replayed File Is In The Log, Complete And In Order
    ${lines}=    Events    500
    ${input}=    Write File    events.ndjson    @{lines}
    ${ended}=    Replay    ${input}
    Should End Well    ${ended}
    ${file}=    Database File
    ${found}=    Query    ${file}    SELECT json_extract(details, '$.n') FROM audit_log ORDER BY seq
    ${wanted}=    Evaluate    list(range(500))
    Lists Should Be Equal    ${found}    ${wanted}

Real Events Arrive Complete
    ${input}=    Cloudtrail File
    Skip If    $input is None    the real events are not beside this repository
    ${ended}=    Replay    ${input}
    Should End Well    ${ended}
    Log Should Have Rows    1900
    ${file}=    Database File
    ${holes}=    Query    ${file}    SELECT max(seq) - count(DISTINCT seq) FROM audit_log
    Should Be Equal As Integers    ${holes}[0]    0

A Pipe Is As Good As A File
    ${lines}=    Events    50
    ${text}=    Catenate    SEPARATOR=\n    @{lines}
    ${file}=    Database File
    ${ended}=    Run Command Line    replay    -    --db=sqlite:///${file}    stdin=${text}
    Should End Well    ${ended}
    Log Should Have Rows    50

Bad Lines Are Named, And Cost Nothing But Themselves
    ${input}=    Write File    events.ndjson
    ...    {"event_type": "a"}    no json    {"event_type": "b"}    ["no object"]    {"actor": "nobody"}
    ${ended}=    Replay    ${input}
    Exit Code Should Be    ${ended}    1
    FOR    ${line}    IN    line 2    line 4    line 5
        Should Contain    ${ended.stderr}    ${line}
    END
    Should Not Contain    ${ended.stderr}    Traceback
    Log Should Have Rows    2

What Cannot Be Used Is Said, With Exit Code 2
    [Template]    The Command Should Complain
    No such file    replay    missing.ndjson    --db=sqlite:///audit.db
    no such kind of database    tail    --db=nonsense://
    audit.db    tail    --db=sqlite:///audit.db
    No such command    erase

Tail Prints The Last Entries, And Nothing That A Terminal Would Obey
    ${input}=    Write File    events.ndjson
    ...    {"event_type": "first"}    {"event_type": "second", "actor": "maria"}
    ...    {"event_type": "third", "actor": "evil\\u001b[2J"}
    ${ended}=    Replay    ${input}
    Should End Well    ${ended}
    ${ended}=    Tail    -n    2
    Should Not Contain    ${ended.stdout}    first
    Should Contain    ${ended.stdout}    second
    Should Not Contain    ${ended.stdout}    \x1b
    ${ended}=    Tail    --actor=maria    --json
    ${entry}=    Evaluate    json.loads($ended.stdout)
    Should Be Equal    ${entry}[event_type]    second

Bench Measures This Machine
    ${ended}=    Run Command Line    bench    --quick    --records=200    --json
    Should End Well    ${ended}
    ${found}=    Evaluate    json.loads($ended.stdout)
    Dictionary Should Contain Key    ${found}    targets


*** Keywords ***
Replay
    [Arguments]    ${input}
    ${file}=    Database File
    ${ended}=    Run Command Line    replay    ${input}    --db=sqlite:///${file}
    RETURN    ${ended}

Tail
    [Arguments]    @{options}
    ${file}=    Database File
    ${ended}=    Run Command Line    tail    --db=sqlite:///${file}    @{options}
    Should End Well    ${ended}
    RETURN    ${ended}

The Command Should Complain
    [Arguments]    ${words}    @{arguments}
    ${ended}=    Run Command Line    @{arguments}
    Should Complain    ${ended}    ${words}
