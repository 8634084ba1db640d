*** Settings ***
Documentation       What a process left behind, in the hands of an operator: audit-buffer inspect and recover.
Resource            resources/audit.resource
Test Setup          Start Afresh
Test Teardown       Clear Away


*** Test Cases ***
The Ring Of A Killed Process Is Seen, Recovered Once, And Gone
    Leave An Orphan    2000
    ${rings}=    Inspect
    Length Should Be    ${rings}    1
    Should Not Be True    ${rings}[0][alive]
    Should Be True    ${rings}[0][entries] >= 2000
    ${ended}=    Recover
    Should End Well    ${ended}
    Nothing Acknowledged Should Be Lost    threads=4
    No Ring File Should Be Left
    ${again}=    Recover
    Should End Well    ${again}
    Nothing Acknowledged Should Be Lost    threads=4

The Ring Of A Living Process Is Shown, And Left To It
    Set To    flush_interval=3600    batch_size=1000000
    ${process}=    Start Application    --threads=4    --entries=100    --end=wait
    Wait Until Recorded    ${process}
    ${rings}=    Inspect
    Length Should Be    ${rings}    1
    Should Be True    ${rings}[0][alive]
    Should Be Equal As Integers    ${rings}[0][entries]    400
    ${refused}=    Recover
    Exit Code Should Be    ${refused}    1
    Log Should Have Rows    0
    Send Signal    ${process}    SIGINT
    Log Should Tell Of    buffers=1    threads=4    entries=100

Recovering Into The Wrong Place Is Refused With The Remedy
    Leave An Orphan    100
    ${directory}=    Ring Directory
    ${ended}=    Run Command Line    recover    ${directory}    --db=sqlite:///elsewhere.db
    Should Complain    ${ended}    elsewhere.db
    ${rings}=    Inspect
    Length Should Be    ${rings}    1


*** Keywords ***
Leave An Orphan
    [Arguments]    ${acknowledged}
    Set To    flush_interval=3600    batch_size=1000000    batch_max_bytes=1073741824
    ${process}=    Start Application    --threads=4    --entries=1000000
    Wait For Acknowledgements    ${process}    ${acknowledged}
    Send Signal    ${process}    SIGKILL

Inspect
    ${directory}=    Ring Directory
    ${ended}=    Run Command Line    inspect    ${directory}    --json
    Should End Well    ${ended}
    ${found}=    Evaluate    json.loads($ended.stdout)
    RETURN    ${found}[rings]

Recover
    ${directory}=    Ring Directory
    ${file}=    Database File
    ${ended}=    Run Command Line    recover    ${directory}    --db=sqlite:///${file}
    RETURN    ${ended}
