*** Settings ***
Documentation       How a process can end, and what the log has then.
...                 Nothing is written before the end unless the application flushes, so that the end has something to do.
Resource            resources/audit.resource
Test Setup          Prepare
Test Teardown       Clear Away


*** Test Cases ***
Every Normal End Writes What Is Left
    [Template]    An End By Itself Should Write All
    return    0
    raise     1
    exit      3

SIGTERM, Handled, Writes What Is Left
    Set To    durability=memory    handle_signals=SIGTERM
    ${process}=    Start Application    --threads=2    --entries=300    --end=wait
    Wait Until Recorded    ${process}
    ${ended}=    Send Signal    ${process}    SIGTERM
    Exit Code Should Be    ${ended}    143
    Log Should Tell Of    buffers=1    threads=2    entries=300

Ctrl-C Writes What Is Left
    Set To    durability=memory
    ${process}=    Start Application    --threads=2    --entries=300    --end=wait
    Wait Until Recorded    ${process}
    ${ended}=    Send Signal    ${process}    SIGINT
    Should Be Equal As Integers    ${ended.returncode}    -2
    Log Should Tell Of    buffers=1    threads=2    entries=300

SIGTERM, Not Handled, Costs In Memory What Was Not Flushed
    [Documentation]    This is what the level "memory" means; the log is an intact prefix.
    Set To    durability=memory
    ${process}=    Start Application    --threads=1    --entries=300    --flush    --end=wait
    Wait Until Recorded    ${process}
    ${ended}=    Send Signal    ${process}    SIGTERM
    Should Be Equal As Integers    ${ended.returncode}    -15
    Log Should Tell Of    buffers=1    threads=1    entries=300

SIGTERM, Not Handled, Costs Nothing With A Ring File
    ${process}=    Start Application    --threads=2    --entries=300    --flush    --end=wait
    Wait Until Recorded    ${process}
    ${ended}=    Send Signal    ${process}    SIGTERM
    Should Be Equal As Integers    ${ended.returncode}    -15
    Log Should Have Rows    600
    The Next Start Should Deliver The Rest    1200

An Exit That Skips Everything Costs Nothing With A Ring File
    ${ended}=    Run Application    --threads=2    --entries=300    --end=os-exit
    Exit Code Should Be    ${ended}    4
    Log Should Have Rows    0
    The Next Start Should Deliver The Rest    600
    Log Should Tell Of    buffers=1    threads=2    entries=300

The Database Cannot Be Written At The End
    [Documentation]    The process ends all the same, says how much is left, and the next start delivers it.
    ${settled}=    Run Application
    Should End Well    ${settled}
    Set To    exit_timeout=0.1
    ${file}=    Database File
    Lock Database    ${file}
    ${ended}=    Run Application    --threads=2    --entries=300    --end=return
    Should End Well    ${ended}
    Should Contain    ${ended.stderr}    600 entries are kept in the ring file
    Unlock Database
    Log Should Have Rows    0
    The Next Start Should Deliver The Rest    600
    [Teardown]    Run Keywords    Unlock Database    AND    Clear Away


*** Keywords ***
Prepare
    Start Afresh
    Set To    flush_interval=3600    batch_size=1000000    batch_max_bytes=1073741824

An End By Itself Should Write All
    [Arguments]    ${how}    ${code}
    Prepare
    Set To    durability=memory
    ${ended}=    Run Application    --threads=2    --entries=300    --end=${how}
    Exit Code Should Be    ${ended}    ${code}
    Log Should Tell Of    buffers=1    threads=2    entries=300

The Next Start Should Deliver The Rest
    [Arguments]    ${rows}
    ${ended}=    Run Application
    Should End Well    ${ended}
    Log Should Have Rows    ${rows}
    Log Should Be Sound
    No Ring File Should Be Left
