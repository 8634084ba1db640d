*** Settings ***
Documentation       kill -9 under load: the application acknowledges each number that record() returned through a pipe, is
...                 killed, and starts again. Then the log is compared with the acknowledgements.
Resource            resources/audit.resource
Test Setup          Start Afresh
Test Teardown       Clear Away


*** Test Cases ***
What record() Returned Survives Kill -9
    [Documentation]    Each run adopts what the one before left behind, records, and is killed in turn.
    [Template]    Kills Should Cost Nothing
    process     100    2000    9000
    periodic    500    3000
    sync        50    200

Kill -9 While The Database Is Locked
    [Documentation]    Nothing has reached the database: everything is in the ring file, across two deaths.
    ${settled}=    Run Application
    Should End Well    ${settled}
    ${file}=    Database File
    Lock Database    ${file}
    FOR    ${round}    IN RANGE    2
        Kill After    1000
    END
    Log Should Have Rows    0
    Unlock Database
    The Next Start Should Recover All
    [Teardown]    Run Keywords    Unlock Database    AND    Clear Away

Kill -9 In The Middle Of A Recovery
    [Documentation]    A recovery is killed as soon as it has written something; the next one finishes it.
    Set To    flush_interval=3600    batch_size=1000000    batch_max_bytes=1073741824
    Kill After    4000
    Set To    batch_size=16
    ${process}=    Start Application    --end=wait
    ${file}=    Database File
    Wait For Rows    ${file}
    ${ended}=    Send Signal    ${process}    SIGKILL
    The Next Start Should Recover All


*** Keywords ***
Kills Should Cost Nothing
    [Arguments]    ${level}    @{acknowledgements}
    Start Afresh
    Set To    durability=${level}    flush_interval=0.01
    FOR    ${count}    IN    @{acknowledgements}
        Kill After    ${count}
    END
    The Next Start Should Recover All

Kill After
    [Arguments]    ${count}
    ${process}=    Start Application    --threads=4    --entries=1000000
    Wait For Acknowledgements    ${process}    ${count}
    ${ended}=    Send Signal    ${process}    SIGKILL
    Should Be Equal As Integers    ${ended.returncode}    -9

The Next Start Should Recover All
    ${ended}=    Run Application
    Should End Well    ${ended}
    Nothing Acknowledged Should Be Lost    threads=4
    No Ring File Should Be Left
